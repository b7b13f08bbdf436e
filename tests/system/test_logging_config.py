"""LoggingConfig: drivers and workers log in one form, which says where a line is from."""

import json

import processes
import pytest

from beeline import LoggingConfig

SCRIPT = """
    import logging

    ray.init(num_cpus=2, logging_config=ray.LoggingConfig(**json.loads(os.environ["CONFIG"])))

    @ray.remote(name="the task")
    def f():
        logging.getLogger("app").info("in a task", extra={"step": 3})
        logging.getLogger("app").debug("not to be seen")
        return ray.get_runtime_context().get_task_id()

    @ray.remote
    class Actor:
        def log(self):
            logging.getLogger().warning("in an actor")
            try:
                raise ValueError("on purpose")
            except ValueError:
                logging.exception("failed")
            return ray.get_runtime_context().get_actor_id()

    actor = Actor.options(name="the actor").remote()
    say("ids", [ray.get(f.remote()), ray.get(actor.log.remote()), ray.get_runtime_context().get_node_id()])
    logging.getLogger("app").info("in the driver")
    say("done")
    hear()
"""


def lines_with(driver, text):
    return [line for line in driver.output().splitlines() if text in line]


def test_json_says_where_a_line_is_from(start_driver):
    config = {"encoding": "JSON", "additional_log_standard_attrs": ["name"]}
    driver = start_driver(SCRIPT, environment={"CONFIG": json.dumps(config)})
    task_id, actor_id, node_id = driver.expect("ids")
    driver.expect("done")
    assert processes.until(lambda: lines_with(driver, "failed") and lines_with(driver, "in a task"))

    def entry(text):
        (line,) = lines_with(driver, text)
        return json.loads(line[line.index("{") :])

    of_task = entry("in a task")
    assert of_task["levelname"] == "INFO"
    assert (of_task["task_id"], of_task["task_name"], of_task["task_func_name"]) == (task_id, "the task", "f")
    assert (of_task["job_id"], of_task["node_id"], of_task["name"], of_task["step"]) == ("01000000", node_id, "app", 3)
    assert "actor_id" not in of_task
    of_actor = entry("in an actor")
    assert (of_actor["actor_id"], of_actor["actor_name"]) == (actor_id, "the actor")
    assert "on purpose" in entry("failed")["exc_text"]
    of_driver = entry("in the driver")
    assert "task_id" not in of_driver and of_driver["job_id"] == "01000000"
    assert lines_with(driver, "not to be seen") == []


def test_text_of_a_level(start_driver):
    config = {"log_level": "WARNING"}
    driver = start_driver(SCRIPT, environment={"CONFIG": json.dumps(config)})
    _, actor_id, _ = driver.expect("ids")
    driver.expect("done")
    assert processes.until(lambda: lines_with(driver, "in an actor"))
    (line,) = lines_with(driver, "in an actor")
    assert "WARNING" in line and f"actor_id={actor_id}" in line and "job_id=01000000" in line
    assert lines_with(driver, "in a task") == lines_with(driver, "in the driver") == []


def test_the_format_of_the_drivers_own_logger(start_driver):
    driver = start_driver(
        """
    import logging
    ray.init(num_cpus=1, logging_format="OURS %(message)s", logging_level="INFO")
    logging.getLogger("beeline").info("hello")
    logging.getLogger("other").warning("plain")
    say("done")
    """
    )
    driver.expect("done")
    assert processes.until(lambda: lines_with(driver, "hello") == ["OURS hello"])
    assert lines_with(driver, "plain") == ["plain"]


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="YAML"):
        LoggingConfig(encoding="YAML")
    with pytest.raises(ValueError, match="no_such"):
        LoggingConfig(additional_log_standard_attrs=["no_such"])
    assert LoggingConfig.from_dict({**LoggingConfig(encoding="JSON").to_dict(), "more": 1}).encoding == "JSON"
