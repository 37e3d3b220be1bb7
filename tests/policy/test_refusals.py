"""The meaning of an error by its status and body, for the wording of many servers and for the quirk server."""

# ruff: noqa: E501  # wording as servers write it

import json
from types import SimpleNamespace

import pytest

from dreamprm_jax.policy.refusals import limit_between, read_error
from dreamprm_jax.policy.replies import read_reply

S = ["messages", "temperature", "top_p", "max_tokens", "seed", "n", "stop", "logprobs"]
P = ["prompt", *S[1:]]
ERRORS = [
    (400,{"error":{"message":"Unsupported value: 'temperature' does not support 0.8 with this model. Only the default (1) value is supported.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}},S,"parameter","temperature"),
    (400,{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens"}},S,"parameter","max_tokens"),
    (400,{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens."}},S,"out of tokens",None),
    (400,{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens","type":"BadRequestError","param":None,"code":400},P,"overflow",None),
    (400,{"error":{"message":"The input (5123 tokens) is longer than the model's context length (4096 tokens).","code":400}},P,"overflow",None),
    (400,{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}},P,"overflow",None),
    (422,{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 `inputs` tokens and 1024 `max_new_tokens`","error_type":"validation"},P,"overflow",None),
    (422,{"error":"Input validation error: `best_of` must be > 0 and <= 2. Given: 4","error_type":"validation"},P,"parameter","n"),
    (422,{"error":"Input validation error: `temperature` must be strictly positive","error_type":"validation"},P,"parameter","temperature"),
    (422,{"error":"Input validation error: `top_p` must be > 0.0 and < 1.0","error_type":"validation"},P,"parameter","top_p"),
    (422,{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted","input":5}]},S,"parameter","seed"),
    (422,{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","logprobs"],"msg":"Extra inputs are not permitted","input":True}]},"type":"invalid_request_error"},S,"parameter","logprobs"),
    (400,[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"seed\": Cannot find field.","status":"INVALID_ARGUMENT"}}],S,"parameter","seed"),
    (400,[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}],S,"unusable",None),
    (400,[{"error":{"code":400,"message":"Multiple candidates is not enabled for this model","status":"INVALID_ARGUMENT"}}],S,"parameter","n"),
    (400,{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 32000 > 8192, which is the maximum allowed number of output tokens for claude-3-5"}},S,"parameter","max_tokens"),
    (400,{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}},S,"overflow",None),
    (529,{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}},S,"gone",None),
    (400,{"type":"error","error":{"type":"invalid_request_error","message":"`temperature` and `top_p` cannot both be specified for this model. Please use only one."}},S,"parameter",("temperature","top_p")),
    (400,{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}},S,"unusable",None),
    (402,{"error":{"message":"Insufficient Balance","type":"unknown_error"}},S,"unusable",None),
    (400,{"error":{"message":"Invalid max_tokens value, the valid range of max_tokens is [1, 8192]","type":"invalid_request_error"}},S,"parameter","max_tokens"),
    (400,{"code":"InvalidParameter","message":"<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]","request_id":"x"},S,"parameter","max_tokens"),
    (400,{"error":{"code":"data_inspection_failed","message":"Input data may contain inappropriate content."}},S,"refused",None),
    (400,{"error":{"code":"invalid_parameter_error","message":"This model does not support non-streaming output."}},S,"parameter","stream=false"),
    (400,{"error":{"code":"Arrearage","message":"Access denied, please make sure your account is in good standing."}},S,"unusable",None),
    (500,{"error":{"message":"Jinja Exception: System role not supported","code":500,"type":"server_error"}},S,"parameter","system role"),
    (400,{"object":"error","message":"Conversation roles must alternate user/assistant/user/assistant/...","code":400},S,"parameter","system role"),
    (404,{"error":{"message":"model 'x' not found, try pulling it first"}},S,"unusable",None),
    (404,{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404},S,"unusable",None),
    (503,{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}},S,"gone",None),
    (400,{"error":"Model is loading"},S,"gone",None),
    (429,{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}},S,"unusable",None),
    (429,{"error":{"message":"Rate limit reached for gpt-4o in organization on tokens per min"}},S,"gone",None),
    (403,{"error":{"message":"You are not allowed to request logprobs from this model","type":"invalid_request_error","param":None,"code":None}},S,"parameter","logprobs"),
    (403,{"error":{"message":"Project does not have access to model gpt-5"}},S,"unusable",None),
    (400,{"error":{"message":"This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?"}},P,"unusable",None),
    (400,{"error":{"message":"litellm.BadRequestError: OpenAIException - litellm.UnsupportedParamsError: openai does not support parameters: {'logprobs': True}, for model=x. To drop these, set litellm.drop_params=True","type":None,"param":None,"code":"400"}},S,"parameter","logprobs"),
    (400,{"error":{"message":"litellm.ContextWindowExceededError: prompt is too long"}},S,"overflow",None),
    (500,{"error":{"message":"litellm.InternalServerError: upstream"}},S,"passing",None),
    (400,{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}},S,"refused",None),
    (400,{"error":{"message":"Failed to parse messages: max_tokens must be at least 16","param":"max_tokens"}},S,"parameter","max_tokens"),
    (400,{"error":{"message":"Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 10 instead.","param":"max_output_tokens","code":"integer_below_min_value"}},S,"parameter","max_tokens"),
    (400,{"message":"n > 1 is not supported","type":"BadRequest"},S,"parameter","n"),
    (400,{"error":{"message":"'n' : number must be at most 1","type":"invalid_request_error"}},S,"parameter","n"),
    (400,{"error":{"message":"property 'seed' is unsupported","type":"invalid_request_error","param":"seed"}},S,"parameter","seed"),
    (400,{"error":{"message":"Too many stop sequences","type":"invalid_request_error"}},S,"parameter","stop"),
    (400,{"error":{"message":"logprobs is not supported with reasoning models"}},S,"parameter","logprobs"),
    (400,{"error":{"message":"Argument not supported on this model: presencePenalty; topP"}},S,"parameter","top_p"),
    (400,{"error":"only one of temperature or top_p may be set"},S,"parameter",("temperature","top_p")),
    (404,"<html><head><title>404 Not Found</title></head><body>nginx</body></html>",S,"unusable",None),
    (502,"<html>Bad gateway</html>",S,"gone",None),
    (524,"",S,"gone",None),
    (401,{"error":{"message":"invalid x-api-key"}},S,"unusable",None),
    (400,{"error":{"message":"API Key not found"}},S,"unusable",None),
    (413,{"error":{"message":"Request too large for model `llama3` on tokens per minute (TPM): Limit 6000, Requested 8000"}},S,"overflow",None),
    (498,{"error":{"message":"Flex tier capacity exceeded"}},S,"gone",None),
    (400,{"error":{"message":"The server had an error while processing your request. Sorry about that!"}},S,"refused",None),
    (400,{"error":{"message":"Requested token count exceeds the model's maximum context length of 32768 tokens."}},S,"overflow",None),
    (422,{"detail":"max_tokens (32768) exceeds limit 16384"},S,"parameter","max_tokens"),
    (400,{"error":{"message":"max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you provided 100000.","param":"max_tokens","code":"invalid_value"}},S,"parameter","max_tokens"),
    (400,{"error":{"message":"Input length 5000 exceeds the maximum allowed length 4096"}},P,"overflow",None),
    (400,{"error":{"message":"'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 4096 tokens and your request has 500 input tokens"}},S,"overflow",None),
    (410,{"error":"The model x has been deprecated"},S,"unusable",None),
    (405,{"detail":"Method Not Allowed"},P,"unusable",None),
    (400,{"error":{"message":"developer role not supported; system messages are not allowed"}},S,"parameter","system role"),
    (400,{"error":{"message":"messages[0].role: Input should be 'user' or 'assistant'"}},S,"parameter","system role"),
    (400,{"status":400,"title":"Bad Request","detail":"Provided seed is out of range"},S,"parameter","seed"),
    (451,{"error":{"message":"unavailable for legal reasons in your region"}},S,"unusable",None),
    (403,{"error":{"message":"Country, region, or territory not supported","code":"unsupported_country_region_territory"}},S,"unusable",None),
    (400,{"error":{"message":"User location is not supported for the API use."}},S,"unusable",None),
    (503,{"error":{"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}},S,"gone",None),
    (500,{"error":"CUDA out of memory"},S,"passing",None),
    (400,{"error":{"message":"EngineDeadError: engine core dead"}},S,"gone",None),
    (400,{"error":{"message":"Repetitive patterns detected","type":"invalid_prompt"}},S,"refused",None),
    (400,{"error":{"message":"Invalid prompt: your prompt was flagged as potentially violating our usage policy."}},S,"refused",None),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "sent", "meaning", "parameter"), ERRORS)
def test_the_meaning_of_an_error(status, body, sent, meaning, parameter):
    found = read_error(status, body if isinstance(body, str) else json.dumps(body), sent)
    assert found.meaning == meaning
    assert found.parameter is None if parameter is None else found.parameter in parameter
    assert str(status) in found.message


@pytest.mark.parametrize(
    ("said", "sent", "limit"),
    [
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 32000, 8192),
        ("max_tokens: 32000 > 8192, which is the maximum", 32000, 8192),
        ("integer below minimum value. Expected a value >= 16, but got 10 instead.", 10, 16),
        ("max_tokens (32768) exceeds limit 16,384", 32768, 16384),
        ("max_tokens is too large", 32768, None),
    ],
)
def test_the_limit_that_an_error_names(said, sent, limit):
    assert limit_between(said, sent) == limit


STOP = (
    "stop STOP stop_sequence eos_token eot_token end_turn EndOfTurn COMPLETE completed FINISHED tool_calls natural_stop"
)
LENGTH = "length MAX_TOKENS max_output_tokens model_length token_limit model_context_window_exceeded max_new_tokens"
CUT = (
    "content_filter SAFETY RECITATION PROHIBITED_CONTENT OTHER BLOCKLIST SPII LANGUAGE MALFORMED_FUNCTION_CALL abort error "
    "cancelled repetition insufficient_system_resource network_error sensitive refusal timeout ERROR_TOXIC engine_error "
    "stop_error rate_limit token_error time_limit endpoint_error max_retries server_error preempted disconnect pause_turn"
)


@pytest.mark.parametrize(("words", "end"), [(STOP, "stop"), (LENGTH, "length"), (CUT, "cut")])
def test_why_an_answer_ended(words, end):
    for word in words.split():
        message = SimpleNamespace(content="half a program")
        reply = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason=word)])
        [choice] = read_reply(reply, chat=True).choices
        assert choice.text == "half a program"
        assert (end, word) == ("cut" if choice.cut else choice.finish_reason, word)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}, "b"], "ab"),
        ([{"type": "reasoning", "text": "draft"}, {"type": "output_text", "text": "a"}], "a"),
        ({"type": "text", "text": "a"}, "a"),
        (None, ""),
        ("\ud800", "\ufffd" * 3),
    ],
)
def test_content_in_its_forms(content, text):
    message = SimpleNamespace(content=content)
    reply = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])
    assert read_reply(reply, chat=True).choices[0].text == text
