"""Pictures of given numbers. They need matplotlib, which comes with the extra ``plots``."""
