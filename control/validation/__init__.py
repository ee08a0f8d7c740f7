"""From text to typed objects: safe YAML, typed decoding, and the checks that the controller and `meshctl validate` share.

Every error is a finding with file and line; all of them are listed, not just the first.
"""
