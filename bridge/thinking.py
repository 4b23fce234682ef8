"""How a brain is asked for a thought, and what may become of it. Imports nothing: data, adapters and commands all speak of it."""

TEMPLATE = "Describe the picture to draw: {prompt}"  # {prompt} = what the user asks for
DECIDE_TEMPLATE = "Does this need a thought before it is drawn, yes or no? {prompt}"
THOUGHT = 64  # tokens of a thought, at most, where nothing else is asked for
MODES = ("always", "auto", "rewrite")  # the thought beside the prompt; the same where the brain finds it needed; in the prompt's place
