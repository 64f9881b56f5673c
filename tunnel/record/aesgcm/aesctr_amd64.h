// AES in counter mode with vectors of four blocks, sixteen at a time.
//
// Z0 to Z3 are counter blocks on their way to key stream. A round key is
// loaded where it is used, once for all four. That takes one register instead
// of fifteen, and is the same code for both sizes of key.

#define KEY      Z13
#define KEYX     X13
#define COUNTER  Z14 // the next four counter blocks, their bytes reversed
#define COUNTERX X14
#define FOUR     Z19 // what leads COUNTER to the four after
#define TAGX     X16 // the counter block that hides the tag; then the tag
#define FIRST    R8  // gcm.first: 0 for AES-256, 64 for AES-128
#define REVERSE  Z17 // reverses the bytes of every block
#define REVERSEX X17

#define LOAD_KEY(i) VBROADCASTI32X4 (gcm_rounds+16*i)(GCM), KEY

#define ROUND(i) \
	LOAD_KEY(i) \
	VAESENC    KEY, Z0, Z0 \
	VAESENC    KEY, Z1, Z1 \
	VAESENC    KEY, Z2, Z2 \
	VAESENC    KEY, Z3, Z3

// The same, and for the block that will hide the tag.
#define ROUND_AND_TAG(i) \
	ROUND(i) \
	VAESENC KEYX, TAGX, TAGX

// Z0 to Z3 = the next sixteen counter blocks. The addition is of 32 bits and
// never carries into the nonce.
#define COUNT \
	VPSHUFB REVERSE, COUNTER, Z0 \
	VPADDD  FOUR, COUNTER, COUNTER \
	VPSHUFB REVERSE, COUNTER, Z1 \
	VPADDD  FOUR, COUNTER, COUNTER \
	VPSHUFB REVERSE, COUNTER, Z2 \
	VPADDD  FOUR, COUNTER, COUNTER \
	VPSHUFB REVERSE, COUNTER, Z3 \
	VPADDD  FOUR, COUNTER, COUNTER

// The addition of the first round key.
#define WHITEN \
	VBROADCASTI32X4 gcm_rounds(GCM)(FIRST*1), KEY \
	VPXORD  KEY, Z0, Z0 \
	VPXORD  KEY, Z1, Z1 \
	VPXORD  KEY, Z2, Z2 \
	VPXORD  KEY, Z3, Z3

// START begins sixteen blocks, up to the four rounds that AES-256 has before
// the nine and the last of AES-128. The branch is the same for all of a key's
// life.
#define START(round, common) \
	COUNT \
	WHITEN \
	TESTQ FIRST, FIRST \
	JNZ   common \
	round(1) \
	round(2) \
	round(3) \
	round(4) \
common:

#define NINE_ROUNDS(round) \
	round(5) \
	round(6) \
	round(7) \
	round(8) \
	round(9) \
	round(10) \
	round(11) \
	round(12) \
	round(13)

// The last round, and DST = SRC + key stream for 256 bytes. The last round
// adds a key, so data that was added to the key comes out encrypted. The
// result stays in Z4 to Z7.
#define FINISH \
	LOAD_KEY(14) \
	VPXORD      (SRC), KEY, Z4 \
	VPXORD      64(SRC), KEY, Z5 \
	VPXORD      128(SRC), KEY, Z6 \
	VPXORD      192(SRC), KEY, Z7 \
	VAESENCLAST Z4, Z0, Z4 \
	VAESENCLAST Z5, Z1, Z5 \
	VAESENCLAST Z6, Z2, Z6 \
	VAESENCLAST Z7, Z3, Z7 \
	VMOVDQU64   Z4, (DST) \
	VMOVDQU64   Z5, 64(DST) \
	VMOVDQU64   Z6, 128(DST) \
	VMOVDQU64   Z7, 192(DST) \
	ADDQ        $256, SRC \
	ADDQ        $256, DST \
	SUBQ        $256, LEFT
