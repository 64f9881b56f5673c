// Package archtest holds the shape of the source tree: which package may
// import which, that each package says once what it is, and that nothing runs
// behind main's back. It has tests and no code; a failure names the file and
// the rule.
package archtest
