"""Messages to JSON and back."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from poold.agent import messages
from poold.agent.codec import decode, decode_request, encode
from poold.agent.messages import Observe, Remove, Restore, Start
from poold.agent.verbs import REQUESTS
from poold.errors import Refused
from poold.model.application import Application, ExecProbe, HttpHook, HttpProbe, WarmupRequest
from poold.model.fleet import Manifest

MESSAGES = [
    kind
    for kind in vars(messages).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type)
] + [Manifest]

finite = st.floats(allow_nan=False, allow_infinity=False)
st.register_type_strategy(float, finite)

APPLICATION = Application(
    image="hello",
    port=8080,
    command=("run", "it"),
    env={"A": "1"},
    readiness=ExecProbe(command=("true",)),
    warmup=(WarmupRequest("/"),),
    after_restore=HttpHook("/restored"),
)
PLACEMENT = messages.Placement("fleet", "hello", "hello1", "10.0.0.1", "20000-20999")


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_message_survives_the_round_trip(kind, data):
    """Whatever a message holds, its JSON text gives an equal message."""
    message = data.draw(st.from_type(kind))
    assert decode(kind, json.loads(json.dumps(encode(message)))) == message


def test_every_request_has_an_answer_that_can_be_read():
    """The codec knows the types of all requests and of all answers."""
    for kind in REQUESTS.values():
        for each in (kind, kind.answer):
            with pytest.raises(Refused, match="is not an object"):
                decode(each, None)


def test_a_union_is_told_apart_by_its_kind():
    """A probe and a hook come back as the class they were."""
    back = decode_request("start", encode(Start(PLACEMENT, APPLICATION)))
    assert back.application.readiness == ExecProbe(command=("true",))
    assert back.application.after_restore == HttpHook("/restored")
    assert back.application.before_checkpoint is None


def changed(**fields):
    value = encode(Start(PLACEMENT, APPLICATION))
    value["application"].update(fields)
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (changed(colour="red"), "application: unknown field 'colour'"),
        ({"placement": encode(PLACEMENT)}, "the field 'application' is missing"),
        (changed(port="80"), "application.port: a string is not a whole number"),
        (changed(port=True), "application.port: true is not a whole number"),
        (changed(port=80.0), "application.port: a number is not a whole number"),
        (changed(image=None), "application.image: null is not a string"),
        (changed(command=["a", 1]), "application.command.1: a number is not a string"),
        (changed(command="a"), "application.command: a string is not a list"),
        (changed(env={"A": 1}), "application.env.A: a number is not a string"),
        (changed(env=[]), "application.env: a list is not an object"),
        (changed(readiness={"kind": "ftp"}), "application.readiness: its kind a string is not one"),
        (changed(readiness={}), "application.readiness: its kind null is not one of"),
        (changed(warmup=[{}]), "application.warmup.0: the field"),
        ([], "a list is not an object"),
    ],
)
def test_what_is_no_message_is_refused_with_its_path(value, said):
    """Unknown, missing and wrongly typed fields are refused, and the place is named."""
    with pytest.raises(Refused) as caught:
        decode(Start, value)
    assert caught.value.code == "wire.bad-message"
    assert caught.value.message.startswith("cannot read Start")
    assert said in caught.value.message


def test_what_an_earlier_version_did_not_know_has_its_default():
    """A stored request or record outlives an upgrade that added fields with defaults."""
    body = changed()
    for name in ("engine", "slots"):
        del body["application"][name]
    assert decode(Start, body) == decode(Start, changed())


def test_a_refused_value_is_not_shown():
    """A wrong value may be a secret: its type is named, the value is not."""
    with pytest.raises(Refused) as caught:
        decode(Start, changed(limits="hunter2", env={"PASSWORD": ["hunter2"]}))
    assert "hunter2" not in str(caught.value)


def test_a_literal_takes_only_its_words():
    """A method that does not exist is refused."""
    value = encode(Restore(PLACEMENT, APPLICATION, "sha256:0"))
    with pytest.raises(Refused, match="method: a string is not one of 'restore', 'move'"):
        decode(Restore, {**value, "method": "teleport"})


def test_a_whole_number_is_a_number():
    """JSON does not tell 1 from 1.0: a whole number is read as a float where one is due."""
    assert decode(HttpProbe, {**encode(HttpProbe()), "timeout_seconds": 2}).timeout_seconds == 2.0


@pytest.mark.parametrize("verb", ["fly", None, 3, ["observe"]])
def test_an_unknown_verb_is_refused(verb):
    """What is no verb cannot be asked."""
    with pytest.raises(Refused, match="is not a verb"):
        decode_request(verb, {})


def test_a_request_without_a_body_is_refused():
    """A verb alone is no request."""
    with pytest.raises(Refused, match="cannot read Remove"):
        decode_request(Remove.verb, None)


def test_observe_carries_its_names():
    """Tuples become lists on the wire and tuples again."""
    assert encode(Observe("f", ("a", "b"))) == {
        "fleet": "f", "names": ["a", "b"], "liveness": {}, "images": [],
    }  # fmt: skip
    body = {"fleet": "f", "names": ["a"], "liveness": {}, "images": []}
    assert decode_request("observe", body) == Observe("f", ("a",))
