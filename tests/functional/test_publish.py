"""Publishing on a running service: one after the other, labels that are taken, one content under two labels."""

from conftest import fetch_command
from control import call, connect, error, receive, send
from outcomes import failed


def test_one_after_the_other(tiny, start_service):
    """Whoever has the answer to one may publish the next."""
    folder = tiny("qwen3")
    service = start_service(f"qwen3@1={folder}")
    with connect(service.source) as connection:
        for version in range(100):
            send(connection, "POST", "/v1/artifacts", {"artifact": f"next@{version}={folder}"})
            status, body = receive(connection)
            assert status == 200, body


def test_label_that_is_taken(tiny, start_service, tmp_path):
    """It is told before the folder is looked at, let alone read for its digest."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    answer = call(service.source, "POST", "/v1/artifacts", {"artifact": f"qwen3@1={tmp_path}/nothing"})
    assert answer[0] == 400 and "qwen3@1 is offered already" in error(answer)


def test_label_that_is_given_twice(tiny, run_tpviewd, tmp_path):
    done = run_tpviewd(f"qwen3@1={tmp_path}/nothing", f"qwen3@1={tiny('qwen3')}")
    assert done.returncode == 2 and "qwen3@1 is given twice" in done.stderr


def test_same_content_under_two_labels(tiny, start_service, tpview, check_view, tmp_path):
    """Both are served, whichever label's export is there first, also after others were retired."""
    folder = tiny("qwen3")
    service = start_service(f"llama@1={tiny('llama')}", f"qwen3@1={folder}", f"qwen3@2={folder}")

    def fetch(artifact: str) -> None:
        done = tpview(*fetch_command(service.source, tmp_path / "view", artifact=artifact))
        assert done.returncode == 0, done.stderr
        assert check_view(folder, 2, 0, tmp_path / "view").returncode == 0

    fetch("qwen3@1")
    fetch("qwen3@2")
    for retired in ("llama@1", "qwen3@1"):
        assert tpview("retire", "--source", service.source, retired).returncode == 0
        fetch("qwen3@2")
    failed(tpview(*fetch_command(service.source, tmp_path / "view", artifact="qwen3@1")), "qwen3@1")
