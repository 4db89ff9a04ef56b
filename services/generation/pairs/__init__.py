"""From a plan to pairs: tasks, prompts, the generator, filters. May import decoding; knows no job and no HTTP."""
