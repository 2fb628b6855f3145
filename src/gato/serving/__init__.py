"""An agent behind a socket: sessions that act, captions, answers and chat, and a page to watch it.

    checks     bytes → checked values; nothing is decoded before its size is known
    limits     who may ask, how much and how often; decided before a body is read
    sessions   observation → action, many sessions in one batch
    live       a task → its world in a process of its own, played where one can watch
    language   caption, answer, chat (the shapes of OpenAI's API)
    app        all of it over HTTP and WebSocket
    run        an address → a running server

Needs the extra `serve`. Nothing here is imported by the command line before it serves.
"""
