// Package cairn starts the program under test in each of its roles, through
// nothing but its command line, its files and its ports: the suites and the
// benchmark know no more of it than a user does.
package cairn
