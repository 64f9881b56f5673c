// Package file is the source that reads manifests from files and folders and
// watches them.
//
//	folders ──scan──► files ──read, Decode (unchanged files are kept)──► objects
//	                                                                       │ Translate
//	       last good Result ◄── no problem ── all or nothing ── problem ──►│ reported
//
// Load reads everything once. Run keeps reading: a change is published within
// one second of the last write. An update is taken as a whole or not at all: as
// long as anything is wrong with the manifests, the last good configuration
// serves on and the problems are reported.
//
// Changes are noticed through the file system's notifications. A slow poll
// stands behind them for file systems that give none. Symbolic links are
// followed, so that folders which Kubernetes mounts from a ConfigMap work: such a
// folder changes as one link is swapped.
//
// Every *.yaml, *.yml and *.json file below a folder is read; names that begin
// with a dot or end like an editor's temporary file are not. A file named by
// itself may have any name.
//
// A Source may be used from any number of goroutines.
package file
