"""Every error tvmopt raises on purpose; anything else that escapes is a bug in tvmopt."""


class TvmoptError(Exception):
    """Base class, so that a caller can catch all of them at once."""


class OptionError(TvmoptError, ValueError):
    """An option lies outside its domain."""


class TargetError(TvmoptError, ValueError):
    """A target description is unknown or contradicts what the compiler can build for."""


class ModelError(TvmoptError, ValueError):
    """A model file cannot be read, or is not a valid model."""


class UnsupportedError(TvmoptError, NotImplementedError):
    """A model uses an operator, or a form of one, that tvmopt does not compile."""


class ShapeError(TvmoptError, ValueError):
    """A dimension is left open, or a given shape contradicts the model."""


class DataError(TvmoptError, ValueError):
    """Input, calibration or evaluation data does not fit the model."""


class ToolchainError(TvmoptError, RuntimeError):
    """A C compiler or linker is missing or fails."""


class ArtifactError(TvmoptError, RuntimeError):
    """An artefact cannot be written, opened or run."""
