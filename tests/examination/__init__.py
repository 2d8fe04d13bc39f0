"""The examination of the bundled demo models: pictures, sentences and questions made by other code than the training's.

Everything is drawn, spoken and asked anew from a seed. Knows what the models are said to do, and nothing of how they
were made. `python -m tests.examination --help` examines a checkpoint.
"""
