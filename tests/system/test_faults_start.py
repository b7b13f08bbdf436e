"""A session that cannot start: CoreError that says why, nothing is left, and init works once the reason is gone."""

import processes


def _is_of_the_runtime(kinds):
    return "CoreError" in kinds and "DirectTransportError" not in kinds


def test_a_folder_that_cannot_be_made(start_driver, session_folder):
    (session_folder / "file").touch()
    folder = str(session_folder / "file" / "sessions")
    driver = start_driver(
        f"""
    os.environ["BEELINE_TMPDIR"] = {folder!r}
    say("init", tried(lambda: ray.init(num_cpus=1)))
    say("started", ray.is_initialized())
    os.environ["BEELINE_TMPDIR"] = {str(session_folder)!r}
"""
        + processes.NEW_SESSION
    )
    kinds, message = driver.expect("init")
    assert _is_of_the_runtime(kinds), (kinds, message)
    assert folder in message
    assert driver.expect("started") is False
    processes.expect_a_new_session(driver)


def test_too_few_descriptors(start_driver, session_folder):
    """With one descriptor more each time, so that each system call that needs one is refused once."""
    driver = start_driver(
        """
    import resource
    ray.init(num_cpus=1)  # what Python imports and opens at its first use is there from here on
    ray.get(ray.remote(lambda: 1).remote())
    ray.shutdown()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes, limit = [], len(os.listdir("/proc/self/fd"))
    while True:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        outcome = tried(lambda: ray.init(num_cpus=1))
        ray.shutdown()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if outcome[0] == "returned":
            break
        outcomes.append(outcome)
        limit += 1
    say("outcomes", outcomes)
"""
        + processes.NEW_SESSION
    )
    outcomes = driver.expect("outcomes")
    assert len(outcomes) >= 3
    for kinds, message in outcomes:
        assert _is_of_the_runtime(kinds), (kinds, message)
    assert "Too many open files" in outcomes[0][1]
    processes.expect_a_new_session(driver)
    assert [str(path) for path in session_folder.rglob("*") if not path.is_dir()] == []
