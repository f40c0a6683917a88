"""From preference pairs to an adapter: objectives, gradients, steps, the plan for memory."""
