"""Whether a draft should be used at all, which one, how far it should write, and what it will bring.

texts       what a target wrote: our own results, logs of an OpenAI-compatible API, a study's tables
reading     a draft reads them in one pass: which of its tokens would be accepted, where a router flags one
rounds      the rounds of the decode loop, counted from a reading
times       seconds of a call: measured and kept (profile), or from a shape and a machine (hardware)
predict     seconds of a batch of texts, round by round
choose      which configuration is worth it
file        a plan on disk, and what other programs read of it (export)
simulate    requests that arrive at a rate

"""
