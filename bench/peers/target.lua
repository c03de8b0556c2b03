-- GET of the target that the variable TARGET names.
wrk.path = os.getenv("TARGET")
