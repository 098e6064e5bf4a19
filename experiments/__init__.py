"""Runnable experiments; each subpackage holds one."""
