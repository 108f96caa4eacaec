"""Which runs, deliveries and replays: the filters of lists, and of bulk operations on what a list holds."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AliasChoices, BaseModel, Field

from bridge.api.request_models import Instant, MetadataKey, Name, PageQuery, ProviderId, ProviderRunId, StatusName, Tag
from bridge.domain.delivery import DeliveryState
from bridge.domain.fields import Printable, choice
from bridge.domain.replay import ReplayState
from bridge.domain.run import RunStatus
from bridge.store.deliveries import DeliveryFilter
from bridge.store.run_lists import RunFilter

RUN_STATES: Final = ("open", "settled")
_STATES = [member.value for member in DeliveryState]
_REPLAY_STATES = [member.value for member in ReplayState]
StateName = Annotated[str, choice(_STATES), Field(json_schema_extra={"enum": [*_STATES]})]


class RunSelection(BaseModel):
    """Which runs.

    `q` is the beginning of our id or the provider's; `since` and `until` bound the registration. `metadata.KEY=VALUE`
    may be given for several keys.
    """

    connection: Name | None = None
    status: list[StatusName] = Field(default_factory=list)
    state: Annotated[str, choice(RUN_STATES), Field(json_schema_extra={"enum": [*RUN_STATES]})] | None = None
    tag: Tag | None = None
    workflow_id: ProviderId | None = None
    provider_run_id: ProviderRunId | None = None
    q: ProviderRunId | None = None
    since: Instant | None = None
    until: Instant | None = None
    metadata: Annotated[dict[MetadataKey, Annotated[str, Field(max_length=1024), Printable]], Field(max_length=10)] = (
        Field(default_factory=dict, description="The text of the value at this key of the metadata.")
    )

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses asked for, by `status` and `state`; empty means any, one that is not a status means none."""
        if self.state is None:
            return tuple(self.status)
        wants_settled = self.state == "settled"
        return tuple(s for s in self.status or RunStatus if s.is_settled == wants_settled) or ("",)

    @property
    def open_statuses(self) -> tuple[str, ...]:
        """Those of `statuses` in which a run is open; one that is not a status if none is."""
        return tuple(s for s in self.statuses or RunStatus if s and not RunStatus(s).is_settled) or ("",)

    @property
    def wanted(self) -> RunFilter:
        """The filter for the database."""
        return RunFilter(
            connection=self.connection,
            statuses=self.statuses,
            tag=self.tag,
            workflow_id=self.workflow_id,
            provider_run_id=self.provider_run_id,
            id_prefix=self.q,
            since=self.since,
            until=self.until,
            metadata=self.metadata,
        )


class RunsQuery(RunSelection, PageQuery):
    """Which runs to list.

    `q` is the beginning of our id or the provider's; `since` and `until` bound the registration. `metadata.KEY=VALUE`
    may be given for several keys.
    """

    deliveries: bool = False


class DeliverySelection(BaseModel):
    """Which deliveries."""

    endpoint: Name | None = Field(default=None, validation_alias=AliasChoices("endpoint", "endpoint_id"))
    event: Name | None = Field(default=None, validation_alias=AliasChoices("event", "event_id"))
    run: Name | None = Field(default=None, validation_alias=AliasChoices("run", "run_id"))
    state: StateName | None = None
    since: Instant | None = None
    until: Instant | None = None

    @property
    def wanted(self) -> DeliveryFilter:
        """The filter for the database."""
        return DeliveryFilter(self.endpoint, self.event, self.run, self.state, self.since, self.until)


class DeliveriesQuery(DeliverySelection, PageQuery):
    """Which deliveries to list."""


class ReplaysQuery(PageQuery):
    """Which replays to list."""

    endpoint: Name | None = Field(default=None, validation_alias=AliasChoices("endpoint", "endpoint_id"))
    state: Annotated[str, choice(_REPLAY_STATES), Field(json_schema_extra={"enum": [*_REPLAY_STATES]})] | None = None
