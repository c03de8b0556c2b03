"""The policy: a model file, the engines that run it, and their verification."""
