"""The engine for NVIDIA GPUs: TensorRT-LLM's LLM API behind the project's own waiting line.

Read arguments (what is asked of the library), then library, checkpoint, sequence and engine.
"""
