"""Run code that nobody trusts: Linux namespaces, a system call filter and limits, or a refusal. Needs no root.

Not here: what is right or wrong about the code's answers (tasks/code.py). Start reading in pool.py; isolate.py,
seccomp.py, guest.py, values.py and zygote.py run inside and import nothing but the standard library.
"""
