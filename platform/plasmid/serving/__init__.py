"""The endpoint on Ray Serve: replicas of one application, behind Ray's proxy."""
