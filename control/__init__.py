"""The controller: configuration sources, the mesh model, the certificate authority, xDS, and the operator's command `meshctl`."""
