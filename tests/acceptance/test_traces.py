"""Spans for an OpenTelemetry collector, from a daemon as a process to a real receiver of OTLP over HTTP."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bridge.sandbox import Reply, Scenario
from tests.support.daemon_process import TOKEN
from tests.support.daemon_setup import DaemonSetup, daemon_setup
from tests.support.otlp_collector import OtlpCollector, attributes

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACE_HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
MESSAGES = "/google/_upb/"
"""The library of the messages, in the list of what a process has loaded."""
ONE_SECOND = Scenario(duration_s=1)


async def finish(place: DaemonSetup, **headers: str) -> str:
    """Register a run at Dify, see it end, and return its id."""
    theirs = place.sandbox.add_run("dify", scenario=ONE_SECOND)
    body = {"connection": "dify", "provider_run_id": theirs, "metadata": {"note": "canary-metadata"}}
    run = await place.daemon.ask("POST", "/v1/runs", body, status=201, headers=headers)
    await place.daemon.finish_of(run["id"])
    return str(run["id"])


def of_run(collector: OtlpCollector, run_id: str, name: str) -> list[Span]:
    return [span for span in collector.named(name) if attributes(span.attributes).get("runbridge.run.id") == run_id]


async def test_spans_lead_from_the_poll_to_the_delivery_in_the_trace_of_the_registration(tmp_path: Path) -> None:
    """The retry hangs under the same record; a run that was registered without a trace has one of its own."""
    async with (
        OtlpCollector() as collector,
        daemon_setup(tmp_path, "dify", delivery={"retry_schedule": ["100ms"]}) as place,
    ):
        place.daemon.config["otel"] = {
            "endpoint": collector.origin,
            "headers": "x-api-key=canary-collector%20key",
            "service_name": "bridge-test",
        }
        place.daemon.environ = AT_ONCE
        url = place.receiver.url("/app?token=canary-url")
        place.daemon.config["endpoints"]["app"] |= {"url": url, "headers": {"x-own": "canary-header"}}
        place.receiver.script(Reply(status=500))
        async with place.daemon as daemon:
            run_id, other = await finish(place, **TRACE_HEADERS), await finish(place)
            done = lambda: all(  # noqa: E731 - a condition to wait for
                len(of_run(collector, one, "run")) == 1
                and sum(span.status.code != Status.STATUS_CODE_ERROR for span in of_run(collector, one, "deliver")) == 2
                for one in (run_id, other)
            )
            await collector.wait_for(done)
            key = str(daemon.config["endpoints"]["app"]["secret"])
        [run], delivers = of_run(collector, run_id, "run"), of_run(collector, run_id, "deliver")
        assert (run.trace_id.hex(), run.parent_span_id.hex()) == (TRACE, PARENT)
        assert {span.trace_id.hex() for span in [*of_run(collector, run_id, "poll"), *delivers]} == {TRACE}
        by_id = {span.span_id: span for span in collector.spans}
        assert len(by_id) == len(collector.spans)
        for deliver in delivers:
            record = by_id[deliver.parent_span_id]
            poll = by_id[record.parent_span_id]
            assert (record.name, poll.name, by_id[poll.parent_span_id]) == ("record", "poll", run)
            assert poll.start_time_unix_nano <= record.start_time_unix_nano <= deliver.end_time_unix_nano
        failed = [span for span in collector.named("deliver") if span.status.code == Status.STATUS_CODE_ERROR]
        assert [attributes(span.attributes)["http.response.status_code"] for span in failed] == [500]
        [own] = of_run(collector, other, "run")
        assert (own.parent_span_id, own.trace_id.hex() != TRACE) == (b"", True)
        assert collector.resources[0]["service.name"] == "bridge-test"
        assert {headers["x-api-key"] for headers, _ in collector.requests} == {"canary-collector key"}
        said = b"".join(body for _, body in collector.requests) + daemon.log_since().encode()
        for secret in ("canary", TOKEN, "sandbox-key", key.removeprefix("whsec_")):
            assert secret.encode() not in said, secret


async def test_a_collector_that_hangs_holds_up_neither_deliveries_nor_the_end(tmp_path: Path) -> None:
    """It never answers: what is delivered and how the daemon stops must not wait for it."""
    async with OtlpCollector() as collector, daemon_setup(tmp_path, "dify") as place:
        collector.holds = True
        place.daemon.config["otel"] = {"endpoint": collector.origin}
        place.daemon.environ = {**AT_ONCE, "OTEL_EXPORTER_OTLP_TIMEOUT": "3600"}
        async with place.daemon as daemon:
            await finish(place)
            await collector.wait_for(lambda: bool(collector.requests))
            for _ in range(3):
                await finish(place)
            await place.receiver.wait_for(lambda posts: sum(one.type == "run.finished" for one in posts) == 4, 30)
            await daemon.stop()
        assert collector.spans == []


async def test_trouble_at_the_collector_is_seen_and_its_end(tmp_path: Path) -> None:
    """Standard variables alone switch it on; the sentence names no secret."""
    async with OtlpCollector() as collector, daemon_setup(tmp_path, "dify") as place:
        collector.status = 401
        place.daemon.environ = {
            **AT_ONCE,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.origin,
            "OTEL_EXPORTER_OTLP_HEADERS": "not a header canary",
            "OTEL_SERVICE_NAME": "from-the-environment",
        }
        async with place.daemon as daemon:
            await finish(place)
            assert MESSAGES in Path(f"/proc/{daemon.pid}/maps").read_text()
            assert (await daemon.wait_for_log("traces.failing"))["reason"] == "the collector answered 401"
            is_told = lambda answer: any("traces" in one.values() for one in answer["data"])  # noqa: E731
            await daemon.eventually("/v1/doctor", is_told)
            _, _, metrics = await daemon.call("GET", "/metrics")
            assert b'runbridge_otel_spans_total{result="failed"} 0.0' not in metrics
            collector.status = 200
            await finish(place)
            await daemon.wait_for_log("traces.recovered")
            await daemon.eventually("/v1/doctor", lambda answer: not is_told(answer))
            assert collector.resources[0]["service.name"] == "from-the-environment"
            assert "canary" not in daemon.log_since()


async def test_nothing_of_it_is_loaded_or_sent_unless_a_collector_is_named(tmp_path: Path) -> None:
    async with daemon_setup(tmp_path, "dify") as place, place.daemon as daemon:
        await finish(place, **TRACE_HEADERS)
        await place.wait_for_posts(2, "/app")
        assert MESSAGES not in Path(f"/proc/{daemon.pid}/maps").read_text()
        assert {header.lower() for one in place.posts("/app") for header in one.headers} & {"traceparent"} == set()
