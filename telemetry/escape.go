package telemetry

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// maxField bounds what one field adds to a log line, before escaping.
const maxField = 4096

// Where a byte of a peer's words must be escaped.
const (
	inQuotes = 1 << iota // inside "…" of a text line
	inToken              // a text field without quotes: blanks end it too
	inJSON               // inside a JSON string
)

// special tells where each byte is special: a constant table.
var special = func() (t [256]uint8) {
	for b := range t {
		switch {
		case b < 0x20, b == '"', b == '\\', b == 0x7f:
			t[b] = inQuotes | inToken | inJSON
		case b == ' ':
			t[b] = inToken
		case b >= 0x80:
			// Text escapes all of them: among the runes they make are line ends
			// (U+0085, U+2028) and terminal controls. JSON looks at the rune.
			t[b] = inQuotes | inToken | inJSON
		}
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// cut bounds a field; more reports whether something was cut off.
func cut(s string) (head string, more bool) {
	if len(s) > maxField {
		return s[:maxField], true
	}
	return s, false
}

// appendText appends s for a text line, with \" \\ and \xNN for what is special.
func appendText(dst []byte, s string, where uint8) []byte {
	s, more := cut(s)
	start := 0
	for i := 0; i < len(s); i++ {
		b := s[i]
		if special[b]&where == 0 {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		if b == '"' || b == '\\' {
			dst = append(dst, '\\', b)
		} else {
			dst = append(dst, '\\', 'x', hexDigits[b>>4], hexDigits[b&15])
		}
	}
	dst = append(dst, s[start:]...)
	if more {
		dst = append(dst, "..."...)
	}
	return dst
}

// appendToken appends a field without quotes; "-" if it is empty.
func appendToken(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, '-')
	}
	return appendText(dst, s, inToken)
}

// appendQuoted appends a field in quotes; "-" if it is empty.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	if s == "" {
		dst = append(dst, '-')
	} else {
		dst = appendText(dst, s, inQuotes)
	}
	return append(dst, '"')
}

// appendJSON appends s as a JSON string. Runes that do not print (controls,
// line and paragraph separators, bidirectional marks) are escaped; bytes that
// are not UTF-8 become U+FFFD.
func appendJSON(dst []byte, s string) []byte {
	s, more := cut(s)
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if special[b]&inJSON == 0 {
			i++
			continue
		}
		n := 1
		if b >= utf8.RuneSelf {
			var r rune
			if r, n = utf8.DecodeRuneInString(s[i:]); (r != utf8.RuneError || n > 1) && strconv.IsPrint(r) {
				i += n
				continue
			}
			dst = append(dst, s[start:i]...)
			dst = appendRuneEscape(dst, r)
		} else {
			dst = append(dst, s[start:i]...)
			if b == '"' || b == '\\' {
				dst = append(dst, '\\', b)
			} else {
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
			}
		}
		i += n
		start = i
	}
	dst = append(dst, s[start:]...)
	if more {
		dst = append(dst, "..."...)
	}
	return append(dst, '"')
}

// appendRuneEscape appends \uNNNN, twice for what needs a surrogate pair.
func appendRuneEscape(dst []byte, r rune) []byte {
	if r >= 0x10000 {
		r -= 0x10000
		dst = appendRuneEscape(dst, 0xd800+r>>10)
		return appendRuneEscape(dst, 0xdc00+r&0x3ff)
	}
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// appendJSONOrNull appends s as a JSON string, or null if it is empty.
func appendJSONOrNull(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return appendJSON(dst, s)
}

// appendTime appends t in UTC as RFC 3339 with that many digits of a second (3
// or 6). It is several times faster than time.AppendFormat.
func appendTime(dst []byte, t time.Time, digits int) []byte {
	sec := t.Unix()
	days, rest := sec/86400, sec%86400
	if rest < 0 {
		days, rest = days-1, rest+86400
	}
	year, month, day := civil(days)
	if year < 0 || year > 9999 {
		return append(dst, "0000-00-00T00:00:00Z"...) // no clock of ours says so
	}
	dst = append(dst,
		byte('0'+year/1000), byte('0'+year/100%10), byte('0'+year/10%10), byte('0'+year%10), '-',
		byte('0'+month/10), byte('0'+month%10), '-', byte('0'+day/10), byte('0'+day%10), 'T')
	h, m, s := rest/3600, rest/60%60, rest%60
	dst = append(dst, byte('0'+h/10), byte('0'+h%10), ':', byte('0'+m/10), byte('0'+m%10), ':', byte('0'+s/10), byte('0'+s%10), '.')
	for n, div := t.Nanosecond(), 100_000_000; digits > 0; digits, div = digits-1, div/10 {
		dst = append(dst, byte('0'+n/div%10))
	}
	return append(dst, 'Z')
}

// civil is the proleptic Gregorian date of a day counted from 1 January 1970.
// It counts in eras of 400 years that begin in March, so that the leap day is
// the last day of a year.
func civil(days int64) (year, month, day int64) {
	days += 719468 // from 1 March of year 0
	era := days / 146097
	if days < 0 {
		era = (days - 146096) / 146097
	}
	doe := days - era*146097                               // day of era, 0 to 146096
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365 // year of era, 0 to 399
	doy := doe - (365*yoe + yoe/4 - yoe/100)               // day of year from March, 0 to 365
	mp := (5*doy + 2) / 153                                // month from March, 0 to 11
	day = doy - (153*mp+2)/5 + 1
	month = mp + 3
	if month > 12 {
		month -= 12
	}
	year = yoe + era*400
	if month <= 2 {
		year++
	}
	return year, month, day
}
