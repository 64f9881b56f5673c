// GHASH with vectors of four blocks.
//
// # The field, backwards
//
// GHASH works in GF(2^128), polynomials in x modulo x^128+x^7+x^2+x+1. A block
// has the coefficient of x^0 in the highest bit of its first byte. With its
// bytes reversed it is a number with that coefficient in the highest bit and
// the one of x^127 in the lowest: the polynomial backwards, in y = 1/x. Turned
// around as well, the modulus is
//
//	G = y^128 + y^127 + y^126 + y^121 + 1
//
// and if a, b and c are the numbers of the elements A, B and C = A·B, then
//
//	c = y^127 · (a·y^-127) · (b·y^-127) = a·b·y^-127  mod G.
//
// The kernels compute a·b·y^-128, for which see below, with a factor b that
// was multiplied by y beforehand. What is stored as a power of H is therefore
// H^i·y. Such a product of two of them is the next in the same form:
// (H·y)·(H^i·y)·y^-128 = (H·H^i·y^-127)·y.
//
// # Products
//
// A carry-less multiplication takes 64 bits by 64. With a = a1·y^64 + a0 and
// b the same, a·b is the sum of
//
//	low = a0·b0    middle·y^64 = (a0·b1 + a1·b0)·y^64    high·y^128 = a1·b1·y^128
//
// Addition is XOR, so the three sums for sixteen blocks, each with its own
// power of H, are added up first and reduced once:
//
//	hash' = (hash+X1)·H^16 + X2·H^15 + … + X16·H
//
// # Reduction
//
// G is 1 in its lowest 64 bits. Adding low0·G clears low's lower word low0 and
// leaves a multiple of y^64, which divides by shifting. With
// P = y^63 + y^62 + y^57, that is 0xc200000000000000,
//
//	low0·G = low0 + low0·P·y^64 + low0·y^128
//	(low + low0·G)·y^-64 = low1 + low0·P + low0·y^64 = swap(low) + low0·P
//
// where swap exchanges the words. This has the weight of middle, and is added
// to it. The same again gets rid of middle's lower word and leaves the weight
// of high. Twice y^-64 is the y^-128 of above.

// x is a register of four blocks, their bytes reversed. HASH is the hash so
// far in its first lane; the other lanes are zero.
#define HASH    Z15
#define HASHY   Y15
#define HASHX   X15
#define POWER   Z11
#define POWERX  X11
#define LOW     Z8
#define MIDDLE  Z9
#define HIGH    Z10
#define TEMP    Z12
#define TEMPY   Y12
#define TEMPX   X12
#define REDUCER Z18 // P in every word

// POWER_OF(i) is the address of H^i·y; with the three that follow it is one
// vector, for four blocks in their order.
#define POWER_OF(i) (gcm_powers+16*(17-i))(GCM)

// LOW, MIDDLE, HIGH = x · POWER, in each of four lanes.
#define MULTIPLY(x) \
	VPCLMULQDQ $0x00, POWER, x, LOW \
	VPCLMULQDQ $0x01, POWER, x, MIDDLE \
	VPCLMULQDQ $0x10, POWER, x, TEMP \
	VPCLMULQDQ $0x11, POWER, x, HIGH \
	VPXORD     TEMP, MIDDLE, MIDDLE

// LOW, MIDDLE, HIGH += x · POWER. It overwrites x. (Truth table 0x96 is the
// XOR of all three.)
#define MULTIPLY_ADD(x) \
	VPCLMULQDQ $0x00, POWER, x, TEMP \
	VPXORD     TEMP, LOW, LOW \
	VPCLMULQDQ $0x11, POWER, x, TEMP \
	VPXORD     TEMP, HIGH, HIGH \
	VPCLMULQDQ $0x01, POWER, x, TEMP \
	VPCLMULQDQ $0x10, POWER, x, x \
	VPTERNLOGD $0x96, TEMP, x, MIDDLE

// MIDDLE += LOW · y^-64, then HASH = HIGH + MIDDLE · y^-64, in each lane.
#define REDUCE_LOW \
	VPCLMULQDQ $0x00, REDUCER, LOW, TEMP \
	VPSHUFD    $0x4e, LOW, LOW \
	VPTERNLOGD $0x96, TEMP, LOW, MIDDLE

#define REDUCE_MIDDLE \
	VPCLMULQDQ $0x00, REDUCER, MIDDLE, TEMP \
	VPSHUFD    $0x4e, MIDDLE, HASH \
	VPTERNLOGD $0x96, TEMP, HIGH, HASH

// HASH = the sum of its lanes, in the first; the others are zero.
#define ADD_LANES \
	VEXTRACTI64X4 $1, HASH, TEMPY \
	VPXOR         TEMPY, HASHY, HASHY \
	VEXTRACTI128  $1, HASHY, TEMPX \
	VPXOR         TEMPX, HASHX, HASHX

// The sixteen blocks in Z4 to Z7, as they are in memory.
#define REVERSE_DATA \
	VPSHUFB REVERSE, Z4, Z4 \
	VPSHUFB REVERSE, Z5, Z5 \
	VPSHUFB REVERSE, Z6, Z6 \
	VPSHUFB REVERSE, Z7, Z7

// The products of Z7, Z6, Z5 and Z4. The first block, to which the hash of
// all before is added, comes last, for that hash is late.
#define HASH_7 VMOVDQU64 POWER_OF(4), POWER; MULTIPLY(Z7)
#define HASH_6 VMOVDQU64 POWER_OF(8), POWER; MULTIPLY_ADD(Z6)
#define HASH_5 VMOVDQU64 POWER_OF(12), POWER; MULTIPLY_ADD(Z5)
#define HASH_4 VMOVDQU64 POWER_OF(16), POWER; VPXORD HASH, Z4, Z4; MULTIPLY_ADD(Z4)
