"""x86-64 CPUs.

Sources, unless a target names its own. Cache sizes, cores and the last level: the maker's page of
the part named in the comment (ark.intel.com, amd.com). Fused multiply-adds a cycle: Intel 64 and
IA-32 Architectures Optimization Reference Manual (248966), chapter 2, and AMD Software Optimization
Guides for Zen 2 to 5 (56305, 56665, 57647, 58455), the floating-point units. Registers:
16 of SSE and AVX, 32 of AVX-512 (Intel Software Developer's Manual, volume 1, chapters 14 and 15).
Required: LLVM's feature list of the CPU name, which a test compares.

AVX-512 targets take back LLVM's preference for 256-bit vectors on Intel's parts: kernels here are
long runs of multiply-adds, which pay for the lower clock.
"""

from tvmopt.targets.description import CpuTarget

_TRIPLE = "x86_64-linux-gnu"

_V2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
_V3 = (*_V2, "movbe", "lzcnt", "bmi", "bmi2", "f16c", "avx", "avx2", "fma")
_V4_NEW = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_ICELAKE_NEW = (
    *_V4_NEW,
    "avx512ifma",
    "avx512vbmi",
    "avx512vbmi2",
    "avx512vnni",
    "avx512bitalg",
    "avx512vpopcntdq",
)

# The levels of the x86-64 psABI (gitlab.com/x86-psABIs, "Micro-Architecture Levels"). Caches are
# those of a small part of an early generation at that level, kept low on purpose: Nehalem (i5-760),
# Haswell (i3-4130), Ice Lake client (i3-1005G1, which has one 512-bit multiply-adder).
X86_64_V2 = CpuTarget(
    name="x86-64-v2",
    triple=_TRIPLE,
    cpu="x86-64-v2",
    required=_V2,
    cores=4,
    vector_bits=128,
    vector_registers=16,
    fma_per_cycle=1,  # no fused ones: one multiplication and one addition
    l1d_bytes=32 * 1024,
    l2_bytes=256 * 1024,
    l3_bytes=4 * 1024 * 1024,
)
X86_64_V3 = CpuTarget(
    name="x86-64-v3",
    triple=_TRIPLE,
    cpu="x86-64-v3",
    required=_V3,
    cores=4,
    vector_bits=256,
    vector_registers=16,
    fma_per_cycle=2,
    l1d_bytes=32 * 1024,
    l2_bytes=256 * 1024,
    l3_bytes=4 * 1024 * 1024,
)
X86_64_V4 = CpuTarget(
    name="x86-64-v4",
    triple=_TRIPLE,
    cpu="x86-64-v4",
    features=("-prefer-256-bit",),
    required=(*_V3, *_V4_NEW),
    cores=4,
    vector_bits=512,
    vector_registers=32,
    fma_per_cycle=1,
    l1d_bytes=32 * 1024,
    l2_bytes=512 * 1024,
    l3_bytes=4 * 1024 * 1024,
)

# Core i7-4770.
HASWELL = CpuTarget(
    name="haswell",
    triple=_TRIPLE,
    cpu="haswell",
    required=_V3,
    cores=4,
    vector_bits=256,
    vector_registers=16,
    fma_per_cycle=2,
    l1d_bytes=32 * 1024,
    l2_bytes=256 * 1024,
    l3_bytes=8 * 1024 * 1024,
)

# Core i7-6700.
SKYLAKE = CpuTarget(
    name="skylake",
    triple=_TRIPLE,
    cpu="skylake",
    required=_V3,
    cores=4,
    vector_bits=256,
    vector_registers=16,
    fma_per_cycle=2,
    l1d_bytes=32 * 1024,
    l2_bytes=256 * 1024,
    l3_bytes=8 * 1024 * 1024,
)

# Core i5-12400, whose cores are all of the fast kind.
ALDER_LAKE = CpuTarget(
    name="alder-lake",
    triple=_TRIPLE,
    cpu="alderlake",
    required=(*_V3, "gfni", "avxvnni"),
    cores=6,
    vector_bits=256,
    vector_registers=16,
    fma_per_cycle=2,
    l1d_bytes=48 * 1024,
    l2_bytes=1280 * 1024,
    l3_bytes=18 * 1024 * 1024,
)

# Xeon Gold 6148.
SKYLAKE_AVX512 = CpuTarget(
    name="skylake-avx512",
    triple=_TRIPLE,
    cpu="skylake-avx512",
    features=("-prefer-256-bit",),
    required=(*_V3, *_V4_NEW),
    cores=20,
    vector_bits=512,
    vector_registers=32,
    fma_per_cycle=2,
    l1d_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=27 * 1024 * 1024 + 512 * 1024,
)

# Xeon Platinum 8280.
CASCADE_LAKE = CpuTarget(
    name="cascade-lake",
    triple=_TRIPLE,
    cpu="cascadelake",
    features=("-prefer-256-bit",),
    required=(*_V3, *_V4_NEW, "avx512vnni"),
    cores=28,
    vector_bits=512,
    vector_registers=32,
    fma_per_cycle=2,
    l1d_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=38 * 1024 * 1024 + 512 * 1024,
)

# Xeon Platinum 8380.
ICE_LAKE_SERVER = CpuTarget(
    name="ice-lake-server",
    triple=_TRIPLE,
    cpu="icelake-server",
    features=("-prefer-256-bit",),
    required=(*_V3, "gfni", *_ICELAKE_NEW),
    cores=40,
    vector_bits=512,
    vector_registers=32,
    fma_per_cycle=2,
    l1d_bytes=48 * 1024,
    l2_bytes=1280 * 1024,
    l3_bytes=60 * 1024 * 1024,
)

# Xeon Platinum 8480+. Its matrix unit (AMX) is not used.
SAPPHIRE_RAPIDS = CpuTarget(
    name="sapphire-rapids",
    triple=_TRIPLE,
    cpu="sapphirerapids",
    features=("-prefer-256-bit",),
    required=(*_V3, "gfni", *_ICELAKE_NEW, "avx512bf16", "avx512fp16", "avxvnni"),
    cores=56,
    vector_bits=512,
    vector_registers=32,
    fma_per_cycle=2,
    l1d_bytes=48 * 1024,
    l2_bytes=2 * 1024 * 1024,
    l3_bytes=105 * 1024 * 1024,
)

# Ryzen 7 3700X; the last level is that of the four cores which share one.
ZEN2 = CpuTarget(
    name="zen2",
    triple=_TRIPLE,
    cpu="znver2",
    required=_V3,
    cores=8,
    vector_bits=256,
    vector_registers=16,
    fma_per_cycle=2,
    l1d_bytes=32 * 1024,
    l2_bytes=512 * 1024,
    l3_bytes=16 * 1024 * 1024,
)

# Ryzen 7 5800X.
ZEN3 = CpuTarget(
    name="zen3",
    triple=_TRIPLE,
    cpu="znver3",
    required=_V3,
    cores=8,
    vector_bits=256,
    vector_registers=16,
    fma_per_cycle=2,
    l1d_bytes=32 * 1024,
    l2_bytes=512 * 1024,
    l3_bytes=32 * 1024 * 1024,
)

# Ryzen 7 7700X. A 512-bit operation takes each of the two 256-bit units for two cycles.
ZEN4 = CpuTarget(
    name="zen4",
    triple=_TRIPLE,
    cpu="znver4",
    required=(*_V3, "gfni", *_ICELAKE_NEW, "avx512bf16"),
    cores=8,
    vector_bits=512,
    vector_registers=32,
    fma_per_cycle=1,
    l1d_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=32 * 1024 * 1024,
)

# Ryzen 7 9700X.
ZEN5 = CpuTarget(
    name="zen5",
    triple=_TRIPLE,
    cpu="znver5",
    required=(*_V3, "gfni", *_ICELAKE_NEW, "avx512bf16", "avxvnni"),
    cores=8,
    vector_bits=512,
    vector_registers=32,
    fma_per_cycle=2,
    l1d_bytes=48 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=32 * 1024 * 1024,
)

TARGETS = (
    X86_64_V2,
    X86_64_V3,
    X86_64_V4,
    HASWELL,
    SKYLAKE,
    ALDER_LAKE,
    SKYLAKE_AVX512,
    CASCADE_LAKE,
    ICE_LAKE_SERVER,
    SAPPHIRE_RAPIDS,
    ZEN2,
    ZEN3,
    ZEN4,
    ZEN5,
)
