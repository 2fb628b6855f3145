"""A bundle becomes something that acts: sessions, sampling, captions and text.

agent = gato.load("runs/demo")
session = agent.session("babyai/go-to-local", seed=0)
session.reset()
action = session.act(observation)
"""

from gato.policy.agent import Agent, Session, load
from gato.policy.batch import AgentPolicy

__all__ = ["Agent", "AgentPolicy", "Session", "load"]
