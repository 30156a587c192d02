"""TODO-by-owner"""
