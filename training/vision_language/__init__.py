"""Trains the bundled demo vision-language model: drawn shapes, questions, small talk."""
