//go:build !purego

// AES-GCM: the kernels. The mathematics of the hash are in ghash_amd64.h, the
// encryption is in aesctr_amd64.h, and what joins them is here.

#include "textflag.h"
#include "go_asm.h"

// Reverses the bytes of a block.
DATA reverse<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse<>+8(SB)/8, $0x0001020304050607
GLOBL reverse<>(SB), RODATA|NOPTR, $16

// P of ghash_amd64.h.
DATA reducer<>+0(SB)/8, $0xc200000000000000
GLOBL reducer<>(SB), RODATA|NOPTR, $8

// From the counter of the tag's block to those of the first four blocks.
DATA ahead<>+0(SB)/8, $1
DATA ahead<>+8(SB)/8, $0
DATA ahead<>+16(SB)/8, $2
DATA ahead<>+24(SB)/8, $0
DATA ahead<>+32(SB)/8, $3
DATA ahead<>+40(SB)/8, $0
DATA ahead<>+48(SB)/8, $4
DATA ahead<>+56(SB)/8, $0
GLOBL ahead<>(SB), RODATA|NOPTR, $64

// Where things are. All that is secret is in Z0 to Z15, which VZEROALL clears,
// and in TAGX, which becomes the tag. Z4 to Z7 are the sixteen blocks of
// ciphertext that are hashed while Z0 to Z3 become key stream.
#define GCM  DI // *gcm
#define DST  DX
#define SRC  SI
#define LEFT CX // bytes of SRC not begun

#include "ghash_amd64.h"
#include "aesctr_amd64.h"

// One step: 256 bytes go through AES while those in Z4 to Z7 are hashed.
#define STEP(common) \
	START(ROUND, common) \
	ROUND(5) \
	REVERSE_DATA \
	ROUND(6) \
	HASH_7 \
	ROUND(7) \
	HASH_6 \
	ROUND(8) \
	HASH_5 \
	ROUND(9) \
	HASH_4 \
	ROUND(10) \
	REDUCE_LOW \
	ROUND(11) \
	REDUCE_MIDDLE \
	ROUND(12) \
	ADD_LANES \
	ROUND(13) \
	FINISH

// ---- the beginning and the end of a message

// SETUP loads the constants and makes the counters of the nonce at AX:
// nonce ‖ 1 hides the tag, nonce ‖ 2 and on are for the data.
#define SETUP \
	VBROADCASTI32X4 reverse<>(SB), REVERSE \
	VPBROADCASTQ reducer<>(SB), REDUCER \
	VMOVQ        (AX), COUNTERX \
	VPINSRD      $2, 8(AX), COUNTERX, COUNTERX \
	MOVL         $0x01000000, BX \
	VPINSRD      $3, BX, COUNTERX, COUNTERX \
	VMOVDQA64    COUNTERX, TAGX \
	VPSHUFB      REVERSEX, COUNTERX, COUNTERX \
	VSHUFI32X4   $0, COUNTER, COUNTER, COUNTER \
	VPADDD       ahead<>(SB), COUNTER, COUNTER \
	VBROADCASTI32X4 ahead<>+48(SB), FOUR \
	MOVQ         gcm_first(GCM), FIRST \
	VPXORD       gcm_rounds(GCM)(FIRST*1), TAGX, TAGX

// HASH_BLOCK hashes the block in Z4, whose other lanes are zero.
#define HASH_BLOCK \
	VPSHUFB   REVERSE, Z4, Z4 \
	VPXORD    HASH, Z4, Z4 \
	VMOVDQU   POWER_OF(1), POWERX \
	MULTIPLY(Z4) \
	REDUCE_LOW \
	REDUCE_MIDDLE

// HASH_ADDITIONAL hashes BX bytes at AX, which are few.
#define HASH_ADDITIONAL(blocks, rest, done) \
	VPXORD    HASH, HASH, HASH \
blocks: \
	CMPQ      BX, $16 \
	JLT       rest \
	VMOVDQU   (AX), X4 \
	HASH_BLOCK \
	ADDQ      $16, AX \
	SUBQ      $16, BX \
	JMP       blocks \
rest: \
	TESTQ     BX, BX \
	JZ        done \
	MOVQ      $-1, R9 \
	BZHIQ     BX, R9, R9 \
	KMOVQ     R9, K1 \
	VMOVDQU8.Z (AX), K1, X4 \
	HASH_BLOCK \
done:

// MASK takes 64 bytes from R9, or what is left, and sets their bits in k.
#define MASK(k) \
	MOVQ    $64, R10 \
	CMPQ    R9, R10 \
	CMOVQLT R9, R10 \
	BZHIQ   R10, R11, R12 \
	KMOVQ   R12, k \
	SUBQ    R10, R9

// LAST_INPUT loads what is left, 256 bytes at most, and zeroes after it. A
// byte that is masked out is not touched in memory.
#define LAST_INPUT \
	MOVQ       LEFT, R9 \
	MOVQ       $-1, R11 \
	MASK(K1) \
	MASK(K2) \
	MASK(K3) \
	MASK(K4) \
	VMOVDQU8.Z (SRC), K1, Z4 \
	VMOVDQU8.Z 64(SRC), K2, Z5 \
	VMOVDQU8.Z 128(SRC), K3, Z6 \
	VMOVDQU8.Z 192(SRC), K4, Z7

// LAST_OUTPUT encrypts or decrypts Z4 to Z7 into Z0 to Z3 and memory, and the
// counter block in TAGX.
#define LAST_OUTPUT(common) \
	START(ROUND_AND_TAG, common) \
	NINE_ROUNDS(ROUND_AND_TAG) \
	LOAD_KEY(14) \
	VAESENCLAST KEYX, TAGX, TAGX \
	VPXORD      KEY, Z4, TEMP \
	VAESENCLAST TEMP, Z0, Z0 \
	VPXORD      KEY, Z5, TEMP \
	VAESENCLAST TEMP, Z1, Z1 \
	VPXORD      KEY, Z6, TEMP \
	VAESENCLAST TEMP, Z2, Z2 \
	VPXORD      KEY, Z7, TEMP \
	VAESENCLAST TEMP, Z3, Z3 \
	VMOVDQU8    Z0, K1, (DST) \
	VMOVDQU8    Z1, K2, 64(DST) \
	VMOVDQU8    Z2, K3, 128(DST) \
	VMOVDQU8    Z3, K4, 192(DST)

// LAST_HASH hashes the n blocks that are left in Z4 to Z7, and the lengths in
// bits: BX of additional data, AX of text. They are one sum,
//
//	(hash+X1)·H^(n+1) + X2·H^n + … + Xn·H^2 + lengths·H
//
// so the powers are read from H^(n+1) on. Blocks after the n-th are zero, and
// what they are multiplied by does not matter: it is the round keys that
// follow the powers. With n = 0 the hash so far meets H.
#define LAST_HASH \
	VMOVQ      AX, X0 \
	VPINSRQ    $1, BX, X0, X0 \
	VMOVDQU    POWER_OF(1), POWERX \
	MULTIPLY(Z0) \
	REVERSE_DATA \
	ADDQ       $15, LEFT \
	ANDQ       $~15, LEFT \
	NEGQ       LEFT \
	VMOVDQU64  (gcm_powers+16*16+192)(GCM)(LEFT*1), POWER \
	MULTIPLY_ADD(Z7) \
	VMOVDQU64  (gcm_powers+16*16+128)(GCM)(LEFT*1), POWER \
	MULTIPLY_ADD(Z6) \
	VMOVDQU64  (gcm_powers+16*16+64)(GCM)(LEFT*1), POWER \
	MULTIPLY_ADD(Z5) \
	VMOVDQU64  (gcm_powers+16*16)(GCM)(LEFT*1), POWER \
	VPXORD     HASH, Z4, Z4 \
	MULTIPLY_ADD(Z4) \
	REDUCE_LOW \
	REDUCE_MIDDLE \
	ADD_LANES

// WRITE_TAG writes the tag to AX and leaves nothing secret behind.
#define WRITE_TAG \
	VPSHUFB    REVERSEX, X15, X15 \
	VPXORD     X15, TAGX, TAGX \
	VMOVDQU64  TAGX, (AX) \
	VPXORD     TAGX, TAGX, TAGX \
	VZEROALL

// func seal(k *gcm, tag *[tagSize]byte, nonce, dst, src, aad []byte)
//
// Ciphertext is hashed a step after it was made, so that AES and GHASH do not
// wait for each other. The last 1 to 256 bytes are a step of their own.
TEXT ·seal(SB), NOSPLIT, $0-112
	MOVQ k+0(FP), GCM
	MOVQ nonce_base+16(FP), AX
	SETUP
	MOVQ aad_base+88(FP), AX
	MOVQ aad_len+96(FP), BX
	HASH_ADDITIONAL(blocks, rest, hashed)
	MOVQ dst_base+40(FP), DST
	MOVQ src_base+64(FP), SRC
	MOVQ src_len+72(FP), LEFT
	CMPQ LEFT, $256
	JLE  last
	START(ROUND, common0)
	NINE_ROUNDS(ROUND)
	FINISH

loop:
	CMPQ LEFT, $256
	JLE  drain
	STEP(common1)
	JMP  loop

drain:
	REVERSE_DATA
	HASH_7
	HASH_6
	HASH_5
	HASH_4
	REDUCE_LOW
	REDUCE_MIDDLE
	ADD_LANES

last:
	LAST_INPUT
	LAST_OUTPUT(common2)
	VMOVDQU8.Z Z0, K1, Z4
	VMOVDQU8.Z Z1, K2, Z5
	VMOVDQU8.Z Z2, K3, Z6
	VMOVDQU8.Z Z3, K4, Z7
	MOVQ src_len+72(FP), AX
	SHLQ $3, AX
	MOVQ aad_len+96(FP), BX
	SHLQ $3, BX
	LAST_HASH
	MOVQ tag+8(FP), AX
	WRITE_TAG
	RET

// func open(k *gcm, tag *[tagSize]byte, nonce, dst, src, aad []byte)
//
// Ciphertext is there from the start and is hashed in the step that decrypts
// it.
TEXT ·open(SB), NOSPLIT, $0-112
	MOVQ k+0(FP), GCM
	MOVQ nonce_base+16(FP), AX
	SETUP
	MOVQ aad_base+88(FP), AX
	MOVQ aad_len+96(FP), BX
	HASH_ADDITIONAL(blocks, rest, hashed)
	MOVQ dst_base+40(FP), DST
	MOVQ src_base+64(FP), SRC
	MOVQ src_len+72(FP), LEFT

loop:
	CMPQ LEFT, $256
	JLE  last
	VMOVDQU64 (SRC), Z4
	VMOVDQU64 64(SRC), Z5
	VMOVDQU64 128(SRC), Z6
	VMOVDQU64 192(SRC), Z7
	STEP(common0)
	JMP  loop

last:
	LAST_INPUT
	LAST_OUTPUT(common1)
	MOVQ src_len+72(FP), AX
	SHLQ $3, AX
	MOVQ aad_len+96(FP), BX
	SHLQ $3, BX
	LAST_HASH
	MOVQ tag+8(FP), AX
	WRITE_TAG
	RET

// func multiply(p, a, b *element)
TEXT ·multiply(SB), NOSPLIT, $0-24
	MOVQ a+8(FP), AX
	VMOVDQU (AX), X4
	MOVQ b+16(FP), AX
	VMOVDQU (AX), POWERX
	VPBROADCASTQ reducer<>(SB), REDUCER
	MULTIPLY(Z4)
	REDUCE_LOW
	REDUCE_MIDDLE
	MOVQ p+0(FP), AX
	VMOVDQU HASHX, (AX)
	VZEROALL
	RET

// func subWord(w uint32) uint32
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVL w+0(FP), AX
	VMOVD AX, X0
	VPSHUFD $0, X0, X0
	VAESKEYGENASSIST $0, X0, X0
	VMOVD X0, AX
	MOVL AX, ret+8(FP)
	VZEROALL
	RET
