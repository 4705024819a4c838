"""What sessions know, over HTTP, to be read only: `surgeline serve`."""
