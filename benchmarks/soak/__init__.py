"""An hour's mixed traffic in ten minutes, at more than the system can do: answers, delays, memory."""
