"""The nodes of a line, and writing to them. What is written, and when, is not known here.

A node's id is its path from VisionSystem, in NAMESPACE: ns=2;s=VisionSystem.Cameras.cam0.Verdict.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from asyncua import Node, Server, ua
from dualkd.daemon.bridges.opcua.fields import CAMERA, LINE, RESULT, Field, Values
from dualkd.daemon.bridges.opcua.states import AutomaticState, State, VisionState
from dualkd.daemon.bridges.opcua.values import bad_value, data_value, standard_id, utc_now

NAMESPACE = "urn:dualkd:machine-vision"
SYSTEM = "VisionSystem"
MACHINE = f"{SYSTEM}.VisionStateMachine"
AUTOMATIC = f"{MACHINE}.AutomaticModeStateMachine"
CONFIGURATIONS = f"{SYSTEM}.ConfigurationManagement"
RECIPES = f"{SYSTEM}.RecipeManagement"
RESULTS = f"{SYSTEM}.ResultManagement.Results"
CAMERAS = f"{SYSTEM}.Cameras"
KEPT_RESULTS = 10
STATES: Mapping[str, int] = {
    name: number
    for states in (VisionState, AutomaticState)
    for number, name in enumerate(get_args(states), 1)
}
"""A state's number, which counts in its own state machine."""

_EVENT_TYPE = "ResultReadyEventType"
_MACHINE_TYPE, _AUTOMATIC_TYPE = "VisionStateMachineType", "VisionAutomaticModeStateMachineType"
_EMPTY = ua.Variant(None, ua.VariantType.Null)

Method = Callable[..., Any]  # a coroutine function: the object's id and the arguments as variants


class _ResultEvent:
    """An event whose fields are made once: asyncua's own copies each for every client, most of its work."""

    def __init__(self, fields: Mapping[str, ua.Variant]) -> None:
        self.emitting_node = ua.NodeId()
        self._fields = fields

    def to_event_fields(self, select_clauses: Sequence[ua.SimpleAttributeOperand]) -> list[ua.Variant]:
        """The fields that a client chose, in its order; those that there are not are empty."""
        paths = (clause.BrowsePath for clause in select_clauses)
        return [self._fields.get(path[0].Name, _EMPTY) if len(path) == 1 else _EMPTY for path in paths]

    def __getattr__(self, name: str) -> Any:
        """A client's filter asks for a field's value in this way."""
        if name not in self._fields:
            raise AttributeError(name)
        return self._fields[name].Value


class Space:
    """The address space of one line."""

    def __init__(self, server: Server, index: int) -> None:
        """`build` makes one."""
        self._server = server
        self._index = index
        self._ids: dict[str, ua.NodeId] = {}

    @classmethod
    async def build(cls, server: Server, cameras: Sequence[str]) -> Space:
        """Add the nodes, their variables without a value."""
        space = cls(server, await server.register_namespace(NAMESPACE))
        await space._object(SYSTEM)
        await space._machine(MACHINE, _MACHINE_TYPE, get_args(VisionState))
        await space._machine(AUTOMATIC, _AUTOMATIC_TYPE, get_args(AutomaticState))
        for path in (CONFIGURATIONS, RECIPES, RESULTS.rpartition(".")[0], RESULTS, CAMERAS):
            await space._object(path)
        for path in (f"{SYSTEM}.Line", f"{SYSTEM}.Fault", f"{RECIPES}.LastActivation"):
            await space._variable(path, standard_id(ua.ObjectIds.String))
        await space._variable(f"{RECIPES}.Recipes", standard_id(ua.ObjectIds.String), array=True)
        await space._fields(SYSTEM, LINE)
        for place in range(KEPT_RESULTS):
            await space._object(kept_result(place))
            await space._fields(kept_result(place), RESULT)
        for camera in cameras:
            path = f"{CAMERAS}.{camera}"
            await space._object(path)
            await space._variable(f"{path}.Fault", standard_id(ua.ObjectIds.String))
            await space._fields(path, CAMERA)
            await space._fields(path, RESULT)
        await space._event_type()
        return space

    async def add_method(
        self, path: str, method: Method, inputs: Mapping[str, str], outputs: Mapping[str, int]
    ) -> None:
        """Add a method that takes strings: `inputs` are names and what they mean, `outputs` names and types."""
        takes = [
            ua.Argument(
                Name=name, DataType=standard_id(ua.ObjectIds.String), Description=ua.LocalizedText(meaning)
            )
            for name, meaning in inputs.items()
        ]
        gives = [ua.Argument(Name=name, DataType=standard_id(kind)) for name, kind in outputs.items()]
        await self._parent(path).add_method(self._id(path), self._name(path), method, takes, gives)

    async def write(self, path: str, value: ua.DataValue) -> None:
        """Write a variable and tell who monitors it. Raises ua.UaError for a wrong path or type."""
        status = await self._server.iserver.aspace.write_attribute_value(
            self._id(path), ua.AttributeIds.Value, value
        )
        status.check()

    async def write_text(self, path: str, text: str) -> None:
        """Write a text of now."""
        await self.write(path, data_value(text, ua.VariantType.String, utc_now()))

    async def write_state(self, state: State) -> None:
        """Write where both state machines are now."""
        await self._write_state(MACHINE, _MACHINE_TYPE, state.vision)
        await self._write_state(AUTOMATIC, _AUTOMATIC_TYPE, state.automatic)

    async def tell_result(self, values: Values, message: str, severity: int) -> None:
        """Send the event of one verdict, from the server object and from VisionSystem."""
        kind = ua.VariantType
        event = _ResultEvent(
            {
                "EventId": ua.Variant(uuid.uuid4().bytes, kind.ByteString),
                "EventType": ua.Variant(self._id(_EVENT_TYPE), kind.NodeId),
                "SourceNode": ua.Variant(self._id(SYSTEM), kind.NodeId),
                "SourceName": ua.Variant(SYSTEM, kind.String),
                "Time": ua.Variant(values["CreationTime"].SourceTimestamp, kind.DateTime),
                "ReceiveTime": ua.Variant(utc_now(), kind.DateTime),
                "Message": ua.Variant(ua.LocalizedText(message, "en"), kind.LocalizedText),
                "Severity": ua.Variant(severity, kind.UInt16),
                **{name: value.Value or _EMPTY for name, value in values.items()},
            }
        )
        for emitter in self._emitters():
            event.emitting_node = emitter
            await self._server.iserver.subscription_service.trigger_event(event)

    async def _write_state(self, path: str, kind: str, state: str | None) -> None:
        """`state` None: the machine is not active."""
        now = utc_now()
        names = ("CurrentState", "CurrentState.Id", "CurrentState.Number")
        if state is None:
            values = [bad_value(ua.StatusCodes.BadStateNotActive, now)] * len(names)
        else:
            values = [
                data_value(ua.LocalizedText(state, "en"), ua.VariantType.LocalizedText, now),
                data_value(self._id(f"{kind}.{state}"), ua.VariantType.NodeId, now),
                data_value(STATES[state], ua.VariantType.UInt32, now),
            ]
        for name, value in zip(names, values, strict=True):
            await self.write(f"{path}.{name}", value)

    async def _object(self, path: str) -> None:
        await self._parent(path).add_object(self._id(path), self._name(path))

    async def _variable(self, path: str, data_type: ua.NodeId, array: bool = False) -> None:
        node = await self._parent(path).add_variable(
            self._id(path), self._name(path), _EMPTY, datatype=data_type
        )
        await node.write_value_rank(ua.ValueRank.OneDimension if array else ua.ValueRank.Scalar)

    async def _fields(self, path: str, fields: Sequence[Field[Any]]) -> None:
        for field in fields:
            await self._variable(f"{path}.{field.name}", field.data_type, field.array)

    async def _machine(self, path: str, kind: str, states: Sequence[str]) -> None:
        """A state machine of a type of its own, which has the states."""
        finite = self._server.get_node(standard_id(ua.ObjectIds.FiniteStateMachineType))
        machine_type = await finite.add_object_type(self._id(kind), self._name(kind))
        for state in states:
            node = await machine_type.add_object(
                self._id(f"{kind}.{state}"),
                self._name(state),
                objecttype=standard_id(ua.ObjectIds.StateType),
                instantiate_optional=False,
            )
            await (await node.get_child("0:StateNumber")).write_value(STATES[state], ua.VariantType.UInt32)
        machine = await self._parent(path).add_object(
            self._id(path), self._name(path), objecttype=machine_type.nodeid, instantiate_optional=False
        )
        current = await machine.get_child("0:CurrentState")
        await current.add_property(
            self._id(f"{path}.CurrentState.Number"),
            ua.QualifiedName("Number"),
            _EMPTY,
            datatype=standard_id(ua.ObjectIds.UInt32),
        )

    async def _event_type(self) -> None:
        base = self._server.get_node(standard_id(ua.ObjectIds.BaseEventType))
        event_type = await base.add_object_type(self._id(_EVENT_TYPE), self._name(_EVENT_TYPE))
        for field in RESULT:
            path = f"{_EVENT_TYPE}.{field.name}"
            await event_type.add_property(self._id(path), self._name(path), _EMPTY, datatype=field.data_type)
        for emitter in self._emitters():
            await self._server.get_node(emitter).set_event_notifier([ua.EventNotifier.SubscribeToEvents])

    def _emitters(self) -> tuple[ua.NodeId, ua.NodeId]:
        return standard_id(ua.ObjectIds.Server), self._id(SYSTEM)

    def _parent(self, path: str) -> Node:
        above = path.rpartition(".")[0]
        return self._server.get_node(self._id(above)) if above else self._server.nodes.objects

    def _id(self, path: str) -> ua.NodeId:
        if path not in self._ids:
            self._ids[path] = ua.NodeId(ua.String(path), ua.Int16(self._index))
        return self._ids[path]

    def _name(self, path: str) -> ua.QualifiedName:
        return ua.QualifiedName(path.rpartition(".")[2], self._index)


def kept_result(place: int) -> str:
    """The path of one of the places of the latest results, 0 to KEPT_RESULTS - 1; they are used in turn."""
    return f"{RESULTS}.Result{place}"
