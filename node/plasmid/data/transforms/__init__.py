"""What a view does to rows before any computation sees them: one file each, found by its name in the view."""
