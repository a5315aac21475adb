/* The whole executor as one unit of compilation: see internal.h. */
#define _GNU_SOURCE /* sched_getaffinity */
#include <assert.h>

#pragma GCC visibility push(default)
#include "model.h" /* generated from model.h.in */
#pragma GCC visibility pop

#include "sizes.h" /* generated: TVMOPT_NAME, PLAN_... counts */

#include "internal.h"

#include "plan.h" /* generated: the tables */

#include "features.c"
#include "scratch.c"

#include "pool.c"

#include "backend.c"

#include "executor.c"

#include "peak.c"
