"""Whisper out of a package that has its weights in CTranslate2's form: an encoder and a decoder."""
