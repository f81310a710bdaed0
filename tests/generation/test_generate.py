"""What a user calls: pieces make the text, results say the truth, conversations go on without being read again."""

import pytest
import torch
from drafting import VOCABULARY, Oracle, small

import positronic
from positronic.errors import DataError, GenerationError
from positronic.generation import Exact, NGram, generate
from positronic.text import Message, byte_tokenizer, render

TOKENS = byte_tokenizer()
HELLO = [Message("user", "Hello")]


def drain(pieces):
    pieces = list(pieces)
    result = pieces[-1].result
    assert [piece.result for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert "".join(piece.text for piece in pieces) == result.text
    assert [piece.token for piece in pieces if piece.token is not None] == list(result.tokens)
    return result


class Counting:
    """A model that counts its calls and the tokens it was given."""

    def __init__(self, model):
        self.model, self.config, self.drafts, self.latents = model, model.config, None, None
        self.calls, self.tokens = 0, 0

    def init_state(self, batch, capacity=0):
        return self.model.init_state(batch, capacity)

    def __call__(self, tokens, state=None, options=None):
        self.calls, self.tokens = self.calls + 1, self.tokens + tokens.numel()
        return self.model(tokens, state, options)

    def logits(self, hidden):
        return self.model.logits(hidden)


class Scripted(Counting):
    """Says a given text token by token after the prompt, then again and again its last token."""

    def __init__(self, model, prompt_tokens, script):
        super().__init__(model)
        self.first, self.script = prompt_tokens - 1, torch.tensor(list(script))

    def __call__(self, tokens, state=None, options=None):
        at = int(state.position[0]) - self.first + torch.arange(tokens.shape[1])
        out = super().__call__(tokens, state, options)
        said = self.script[at.clamp(0, len(self.script) - 1)]
        return out._replace(hidden=torch.nn.functional.one_hot(said, VOCABULARY).float()[None] * 9)

    def logits(self, hidden):
        return hidden


def test_the_public_name_is_this_function():
    assert positronic.generate is generate


def test_a_result_says_what_happened(model):
    counted = Counting(model)
    result = drain(generate(counted, TOKENS, "Hello", max_new_tokens=30, seed=4))
    assert (result.prompt_tokens, len(result.tokens), result.forwards) == (5, 30, 30)
    assert (result.stop_reason, result.draft) == ("length", (0, 0))
    assert counted.calls == 31
    assert counted.tokens == 4 + 30, "the prompt but its last token, then one token a forward"
    assert result.state.tokens == (*b"Hello", *result.tokens)
    assert list(result.to_json()) == [
        "prompt_tokens", "tokens", "text", "stop_reason", "forwards", "draft", "seconds",
    ]  # fmt: skip


def test_the_same_seed_says_the_same_and_another_something_else(model):
    said = [drain(generate(model, TOKENS, "Hello", max_new_tokens=30, seed=seed)).tokens for seed in (4, 4, 5)]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("how", [{"speculative": True}, {"cache": False}, {"speculative": True, "cache": False}])
def test_how_text_is_made_does_not_change_it(model, how):
    plain = drain(generate(model, TOKENS, "Hello", max_new_tokens=60, seed=4))
    other = drain(generate(model, TOKENS, "Hello", max_new_tokens=60, seed=4, **how))
    assert (other.tokens, other.text) == (plain.tokens, plain.text)


def test_exact_text_is_the_same_with_drafts_and_without(model):
    how = {"max_new_tokens": 60, "seed": 4, "exact": True}
    plain = drain(generate(model, TOKENS, "Hello", **how))
    oracle = Oracle(plain.tokens, 5)
    drafted = drain(generate(model, TOKENS, "Hello", speculative=oracle, **how))
    assert drafted.text == plain.text
    assert drafted.forwards == 12
    assert drafted.draft.accepted == 48
    assert plain.state.exact == drafted.state.exact


def test_an_empty_prompt_starts_from_the_end_of_a_text(model):
    assert drain(generate(model, TOKENS, "", max_new_tokens=3)).state.tokens[0] == TOKENS.eot_id


def test_eot_ends_a_text_and_is_no_part_of_it(model):
    scripted = Scripted(model, 5, [*b"abc", TOKENS.eot_id, *b"de"])
    result = drain(generate(scripted, TOKENS, "Hello", temperature=0))
    assert (result.text, result.stop_reason, result.tokens[-1]) == ("abc", "eot", TOKENS.eot_id)
    assert len(result.tokens) == 4


@pytest.mark.parametrize("speculative", [False, NGram(), Oracle(b"one STOP two", 5)])
@pytest.mark.parametrize("stop", ["STOP", ["STOP", "P "], ["O", "STOP"]])
def test_a_stop_string_ends_the_text_before_it(model, stop, speculative):
    scripted = Scripted(model, 5, b"one STOP two")
    result = drain(generate(scripted, TOKENS, "Hello", temperature=0, stop=stop, speculative=speculative))
    assert result.stop_reason == "stop_string"
    assert result.text == ("one ST" if stop == ["O", "STOP"] else "one ")
    assert bytes(result.tokens) == (b"one STO" if stop == ["O", "STOP"] else b"one STOP")
    assert int(result.state.state.position[0]) == len(result.state.tokens) - 1


def test_characters_come_whole(model):
    text = "né 漢🙂".encode()
    pieces = list(generate(Scripted(model, 5, text), TOKENS, "Hello", temperature=0, max_new_tokens=len(text)))
    assert [piece.text for piece in pieces if piece.text] == ["n", "é", " ", "漢", "🙂"]
    cut = drain(generate(Scripted(model, 5, text), TOKENS, "Hello", temperature=0, max_new_tokens=6))
    assert cut.text == "né \N{REPLACEMENT CHARACTER}"


def test_messages_are_rendered_and_end_with_the_turn(model):
    asked = render(TOKENS, [Message("system", "Be brief."), *HELLO], generate=True, think=True).ids
    scripted = Scripted(model, len(asked), [*b"so", TOKENS.special["</think>"], *b"Hi", TOKENS.im_end_id])
    said = drain(generate(scripted, TOKENS, HELLO, system="Be brief.", think=True, temperature=0))
    assert said.state.tokens[: len(asked)] == tuple(asked)
    assert (said.text, said.stop_reason) == ("so</think>Hi", "stop_token")
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert drain(generate(scripted, TOKENS, plain, think=True, temperature=0)).tokens == said.tokens


@pytest.mark.parametrize("exact", [False, True])
def test_a_conversation_goes_on_by_reading_what_is_new_alone(model, exact):
    exact = Exact(5, torch.get_num_threads(), 600) if exact else False
    first = drain(generate(model, TOKENS, HELLO, max_new_tokens=20, seed=1, exact=exact))
    counted = Counting(model)
    more = [Message("user", "And then?")]
    second = drain(generate(counted, TOKENS, more, max_new_tokens=20, seed=2, state=first.state, exact=exact))
    closing = [*([] if first.stop_reason == "stop_token" else [TOKENS.im_end_id]), *b"\n"]
    whole = (*first.state.tokens, *closing, *render(TOKENS, more, generate=True).ids)
    assert second.state.tokens == (*whole, *second.tokens)
    assert second.prompt_tokens == len(whole)
    width = exact.width if exact else 1
    assert counted.tokens == len(whole) - len(first.state.tokens) + width * len(second.tokens)
    anew = drain(generate(model, TOKENS, TOKENS.decode(()), max_new_tokens=20, seed=2, state=again(whole)))
    assert anew.tokens == second.tokens, "reading it all at once says something else"


def again(tokens):
    """A conversation known by its tokens alone."""
    from positronic.generation import Conversation

    return Conversation(tuple(tokens))


def test_a_conversation_is_a_value(model):
    """Going on twice from one result, the second time after the first has written over its buffers."""
    first = drain(generate(model, TOKENS, "Hello", max_new_tokens=20, seed=1))
    a = drain(generate(model, TOKENS, " there", max_new_tokens=20, seed=2, state=first.state))
    drain(generate(model, TOKENS, " nowhere", max_new_tokens=20, seed=3, state=first.state))
    again = drain(generate(model, TOKENS, " there", max_new_tokens=20, seed=2, state=first.state))
    assert again.tokens == a.tokens


def test_an_interrupted_answer_leaves_the_conversation_as_it_was(model):
    first = drain(generate(model, TOKENS, "Hello", max_new_tokens=20, seed=1))
    plain = drain(generate(model, TOKENS, " there", max_new_tokens=20, seed=2, state=first.state))
    stopped = generate(model, TOKENS, " nowhere", max_new_tokens=20, seed=2, state=first.state)
    for _ in range(7):
        next(stopped)
    stopped.close()
    assert drain(generate(model, TOKENS, " there", max_new_tokens=20, seed=2, state=first.state)).tokens == plain.tokens


def test_text_cut_off_by_its_length_goes_on_where_it_stopped(model):
    whole = drain(generate(model, TOKENS, "Hello", max_new_tokens=40, seed=1))
    half = drain(generate(model, TOKENS, "Hello", max_new_tokens=20, seed=1))
    rest = drain(generate(model, TOKENS, "", max_new_tokens=20, seed=1, state=half.state))
    assert half.tokens + rest.tokens == whole.tokens


def test_a_turn_that_ended_the_document_is_closed_as_a_turn():
    """Else everything before it would be forgotten at the boundary."""
    model = small(boundary_id=TOKENS.eot_id)
    asked = render(TOKENS, HELLO, generate=True).ids
    first = drain(generate(Scripted(model, len(asked), [65, TOKENS.eot_id]), TOKENS, HELLO, temperature=0))
    assert first.stop_reason == "eot"
    second = drain(generate(model, TOKENS, HELLO, max_new_tokens=3, state=first.state))
    assert TOKENS.eot_id not in second.state.tokens
    assert second.state.tokens[len(asked) : len(asked) + 3] == (65, TOKENS.im_end_id, 10)


def test_a_full_context_ends_the_text_and_says_so():
    model = small(max_positions=128)
    result = drain(generate(model, TOKENS, "a" * 120, temperature=0))
    assert (len(result.tokens), result.stop_reason) == (8, "context")
    none = drain(generate(model, TOKENS, "a" * 128, temperature=0))
    assert (none.tokens, none.text, none.stop_reason, none.forwards) == ((), "", "context", 0)
    with pytest.raises(GenerationError, match="133 tokens; the model holds 128"):
        generate(model, TOKENS, "Hello", state=none.state)


def test_exact_goes_on_in_a_conversation_and_finds_room_for_it(model):
    first = drain(generate(model, TOKENS, "Hello", max_new_tokens=20, exact=True))
    second = drain(generate(model, TOKENS, " there", max_new_tokens=20, exact=True, state=first.state))
    assert second.state.exact.room > first.state.exact.room
    other = drain(generate(model, TOKENS, " there", max_new_tokens=20, exact=True, speculative=True, state=first.state))
    assert other.tokens == second.tokens
    with pytest.raises(GenerationError, match="may reach 525 tokens"):
        drain(generate(model, TOKENS, "Hello", max_new_tokens=520, exact=first.state.exact))


def test_seconds_come_from_the_clock_and_leave_the_caller_out(model):
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    pieces = generate(model, TOKENS, "Hello", max_new_tokens=3, clock=clock)
    seconds = None
    for piece in pieces:
        now[0] += 1000.0
        seconds = piece.result and piece.result.seconds
    assert seconds.prefill == 1.0
    assert seconds.decode < 10.0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temperature": 9.0}, "temperature is 9.0; use a number from 0 to 5"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": ""}, "empty"),
        ({"system": "x"}, "belong to chat"),
        ({"think": True}, "belong to chat"),
        ({"exact": True, "cache": False}, "choose one"),
        ({"prompt": "a" * 1025}, "1025 tokens; the model holds 1024"),
        ({"prompt": []}, "without messages"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_call(model, how, message):
    with pytest.raises((GenerationError, DataError), match=message):
        generate(model, TOKENS, how.pop("prompt", "Hello"), **how)


def test_a_system_message_comes_first_or_not_at_all(model):
    first = drain(generate(model, TOKENS, HELLO, max_new_tokens=3))
    for how in ({"prompt": HELLO, "system": "x"}, {"prompt": [Message("system", "x"), *HELLO]}):
        with pytest.raises(GenerationError, match="too late"):
            generate(model, TOKENS, state=first.state, **how)
