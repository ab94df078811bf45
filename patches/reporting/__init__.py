"""What is counted and shown: metrics, loads, ``/server_info``."""
