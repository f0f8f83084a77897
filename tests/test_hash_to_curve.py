"""Hashing to G1 against RFC 9380's vectors (appendices J.9.1 and J.9.2) and py_ecc."""

import hashlib

import numpy as np
import pytest
from curve_points import montgomery, ours
from hypothesis import given, settings
from hypothesis import strategies as st
from py_ecc.bls.hash import expand_message_xmd
from py_ecc.bls.hash_to_curve import clear_cofactor_G1, hash_to_G1, map_to_curve_G1
from py_ecc.optimized_bls12_381 import FQ
from py_ecc.optimized_bls12_381 import field_modulus as P

from zkaudit.zk import curve, generators, pedersen
from zkaudit.zk.backend import curve_core

HASHED = {
    b"": (
        0x052926ADD2207B76CA4FA57A8734416C8DC95E24501772C814278700EED6D1E4E8CF62D9C09DB0FAC349612B759E79A1,
        0x08BA738453BFED09CB546DBB0783DBB3A5F1F566ED67BB6BE0E8C67E2E81A4CC68EE29813BB7994998F3EAE0C9C6A265,
    ),
    b"abc": (
        0x03567BC5EF9C690C2AB2ECDF6A96EF1C139CC0B2F284DCA0A9A7943388A49A3AEE664BA5379A7655D3C68900BE2F6903,
        0x0B9C15F3FE6E5CF4211F346271D7B01C8F3B28BE689C8429C85B67AF215533311F0B8DFAAA154FA6B88176C229F2885D,
    ),
}
ENCODED = {
    b"": (
        0x184BB665C37FF561A89EC2122DD343F20E0F4CBCAEC84E3C3052EA81D1834E192C426074B02ED3DCA4E7676CE4CE48BA,
        0x04407B8D35AF4DACC809927071FC0405218F1401A6D15AF775810E4E460064BCC9468BEEBA82FDC751BE70476C888BF3,
    ),
    b"abc": (
        0x009769F3AB59BFD551D53A5F846B9984C59B97D6842B20A2C565BAA167945E3D026A3755B6345DF8EC7E6ACB6868AE6D,
        0x1532C00CF61AA3D0CE3E5AA20C3B531A2ABD2C770A790A2613818303C6B830FFC0ECF6C357AF3317B9575C567F11CD2C,
    ),
    b"abcdef0123456789": (
        0x1974DBB8E6B5D20B84DF7E625E2FBFECB2CDB5F77D5EAE5FB2955E5CE7313CAE8364BC2FFF520A6C25619739C6BDCB6A,
        0x15F9897E11C6441EAA676DE141C8D83C37AAB8667173CBE1DFD6DE74D11861B961DCCEBCD9D289AC633455DFCC7013A3,
    ),
}


def array(vectors: dict[bytes, tuple[int, int]]) -> np.ndarray:
    return np.array([montgomery(x) + montgomery(y) for x, y in vectors.values()], np.uint64)


def test_hashing_gives_the_standards_vectors() -> None:
    tag = b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_"
    assert curve.equal(array(HASHED), curve.hash_to_curve(list(HASHED), tag))


def test_encoding_gives_the_standards_vectors() -> None:
    tag = b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_NU_"
    assert curve.equal(array(ENCODED), curve.encode_to_curve(list(ENCODED), tag))


def encoded_by_oracle(message: bytes, tag: bytes) -> object:
    u = int.from_bytes(expand_message_xmd(message, tag, 64, hashlib.sha256), "big") % P
    return clear_cofactor_G1(map_to_curve_G1(FQ(u)))


messages = st.lists(st.binary(max_size=200), min_size=1, max_size=9)
tags = st.binary(min_size=1, max_size=255)


@given(messages, tags)
@settings(max_examples=10)
def test_hashing_agrees_with_the_oracle(texts: list[bytes], tag: bytes) -> None:
    assert curve.equal(ours([hash_to_G1(m, tag, hashlib.sha256) for m in texts]), curve.hash_to_curve(texts, tag))


@given(messages, tags)
@settings(max_examples=10)
def test_encoding_agrees_with_the_oracle(texts: list[bytes], tag: bytes) -> None:
    assert curve.equal(ours([encoded_by_oracle(m, tag) for m in texts]), curve.encode_to_curve(texts, tag))


@given(st.integers(0, 2**40), st.integers(1, 20), tags)
@settings(max_examples=10)
def test_generators_encode_their_index(start: int, count: int, tag: bytes) -> None:
    texts = [i.to_bytes(8, "little") for i in range(start, start + count)]
    assert curve.equal(curve.encode_to_curve(texts, tag), curve.generators(tag, count, start))


def test_generators_are_distinct_points_of_the_subgroup() -> None:
    used = np.concatenate([pedersen.columns(600), pedersen.slots(600), pedersen.blinding(), pedersen.inner_product()])
    assert len(np.unique(used, axis=0)) == len(used)
    assert used.any(axis=1).all()
    assert curve.in_subgroup(used).all()


def test_generator_lists_are_prefixes_of_one_list() -> None:
    assert curve.equal(pedersen.columns(700)[:100], curve.generators(generators.COLUMNS_DOMAIN, 100))


@given(st.binary(max_size=500))
def test_sha256_is_that_of_the_library(data: bytes) -> None:
    out = np.empty(32, np.uint8)
    curve_core.sha256(np.frombuffer(data, np.uint8), out)
    assert out.tobytes() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("tag", [b"", b"x" * 256])
def test_a_tag_of_unusable_length_is_refused(tag: bytes) -> None:
    with pytest.raises(ValueError, match="tag"):
        curve.hash_to_curve([b"m"], tag)
