"""The curator: turns sequential reasoning into forked and joined traces."""
