"""How fast a pair decodes on this machine: on a GPU or a CPU, with models at hand or random ones of real shapes."""
