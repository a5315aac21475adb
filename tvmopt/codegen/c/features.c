/* Whether this CPU, and the system on it, can run the kernels. */
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

static uint32_t saved_state(void) {
    uint32_t a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return 0; /* no OSXSAVE, no XGETBV */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return low;
}

static bool has_feature(const cpu_feature *feature) {
    uint32_t word[4] = {0};
    if (!__get_cpuid_count(feature->leaf, feature->subleaf, &word[0], &word[1], &word[2], &word[3]))
        return false;
    if (!(word[feature->word] & feature->mask)) return false;
    return !feature->os_state || (saved_state() & feature->os_state) == feature->os_state;
}
#elif defined(__aarch64__) || defined(__arm__)
#include <sys/auxv.h>

static bool has_feature(const cpu_feature *feature) {
    return (getauxval(feature->leaf) & feature->mask) != 0;
}
#else
static bool has_feature(const cpu_feature *feature) {
    (void)feature;
    return false;
}
#endif

/* Return the first feature that is missing, or NULL. */
static const char *missing_feature(void) {
    for (int32_t i = 0; i < PLAN_FEATURES; i++)
        if (!has_feature(&plan_features[i])) return plan_features[i].name;
    return NULL;
}
