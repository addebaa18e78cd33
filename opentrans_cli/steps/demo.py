"""stub until written"""
