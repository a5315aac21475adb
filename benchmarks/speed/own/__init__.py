"""Our compressed artefacts beside our float ones, over the zoo."""
