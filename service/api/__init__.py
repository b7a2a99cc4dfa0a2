"""HTTP: routes, authentication, errors and documents. Only this package and `service.bento` know HTTP."""
