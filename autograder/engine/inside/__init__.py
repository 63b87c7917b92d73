"""The few files that enter the sandbox. They import nothing of this package."""
