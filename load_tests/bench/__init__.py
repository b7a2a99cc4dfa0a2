"""`make bench`: how fast is the service, beside its ceiling and beside other servers?"""
