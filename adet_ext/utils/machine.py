"""The name of this machine's processor, for reports."""

import platform

__all__ = ["processor_name"]


def processor_name() -> str:
    """Return the name of the processor, if the system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
