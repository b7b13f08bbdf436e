"""`ray.util.joblib.register_ray`: joblib and scikit-learn on actors."""

import importlib
import os
import time

from outcome import process_is_gone, raised, until


def _joblib(ray):
    import joblib

    importlib.import_module(f"{ray.__name__}.util.joblib").register_ray()
    return joblib


def case_parallel(ray):
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=2):
        squares = joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(20))
        pids = set(joblib.Parallel()(joblib.delayed(lambda: os.getpid())() for _ in range(4)))
    return [squares, os.getpid() in pids, until(lambda: all(map(process_is_gone, pids)))]


def case_by_name_in_parallel(ray):
    joblib = _joblib(ray)
    with joblib.parallel_config(backend="ray", n_jobs=2):
        return joblib.Parallel(batch_size=3)(joblib.delayed(divmod)(i, 3) for i in range(7))


def case_all_cpus_by_default(ray):
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray"):
        parallel = joblib.Parallel()
        n_jobs = parallel._effective_n_jobs()
        pids = set(parallel(joblib.delayed(lambda: (time.sleep(0.3), os.getpid())[1])() for _ in range(4)))
    return [n_jobs, len(pids)]


def case_one_job_needs_no_actor(ray):
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=1):
        return set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(2))) == {os.getpid()}


def case_more_jobs_than_cpus(ray):
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=16):
        return raised(ray, lambda: joblib.Parallel()(joblib.delayed(abs)(i) for i in range(3)), "16", "CPUs")


def case_errors(ray):
    joblib = _joblib(ray)

    def fail(i):
        if i == 2:
            raise ValueError(f"bad job {i}")
        return i

    with joblib.parallel_backend("ray", n_jobs=2):
        error = raised(ray, lambda: joblib.Parallel()(joblib.delayed(fail)(i) for i in range(6)), "bad job 2")
        return [error, joblib.Parallel()(joblib.delayed(abs)(i) for i in (-1, 2))]


def case_options_of_the_actors(ray):
    joblib = _joblib(ray)

    def held():
        return ray.get_runtime_context().get_assigned_resources().get("slot")

    with joblib.parallel_backend("ray", n_jobs=2, ray_remote_args={"resources": {"slot": 0.5}}):
        return joblib.Parallel()(joblib.delayed(held)() for _ in range(2))


def case_a_large_array_for_every_job(ray):
    import numpy

    joblib = _joblib(ray)
    big = numpy.arange(500_000)

    def part(array, i, scale=1):
        return int(array[i::7].sum()) * scale

    with joblib.parallel_backend("ray", n_jobs=2):
        sums = joblib.Parallel()(joblib.delayed(part)(big, i, scale=2) for i in range(7))
    return [sum(sums) == 2 * int(big.sum()), len(sums)]


def case_parallel_within_parallel(ray):
    joblib = _joblib(ray)

    def inner(i):
        return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-j) for j in range(i + 1)))

    with joblib.parallel_backend("ray", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(inner)(i) for i in range(4))


def case_a_worker_that_dies(ray):
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=2):
        return raised(ray, lambda: joblib.Parallel()(joblib.delayed(os._exit)(1) for _ in range(2))) != "returned"


def case_grid_search_of_sklearn(ray):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    joblib = _joblib(ray)
    x, y = load_digits(return_X_y=True)
    search = GridSearchCV(SVC(), {"C": [0.1, 10], "gamma": [0.001]}, cv=2)
    with joblib.parallel_backend("ray", n_jobs=2):
        search.fit(x[:400], y[:400])
    return [search.best_params_, round(float(search.best_score_), 6)]


def case_random_forest_of_sklearn(ray):
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    joblib = _joblib(ray)
    x, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=8, random_state=0)
    with joblib.parallel_backend("ray", n_jobs=2):
        scores = cross_val_score(forest, x[:400], y[:400], cv=3)
    return [round(float(score), 6) for score in scores]
