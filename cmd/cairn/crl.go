package main

import (
	"errors"
	"io/fs"
	"path/filepath"

	"cairnproxy.dev/cairn/identity"
)

// crlUsage describes the flag --crl.
const crlUsage = "lists of revoked certificates, PEM; read again when they change (default: " + identity.CRLFile + " beside the roots)"

// openCRL reads the lists of revoked certificates in path, or without one those
// beside the file of trusted roots, if there is one. They may come later; what cannot be read is an error.
func (a *app) openCRL(path, root string) (*identity.CRL, error) {
	given := path != ""
	if !given && root == "" {
		return nil, nil // certificates come from where there are no files
	}
	if !given {
		path = filepath.Join(filepath.Dir(root), identity.CRLFile)
	}
	crl := identity.NewCRL(path, a.log)
	switch err := crl.Load(); {
	case errors.Is(err, fs.ErrNotExist):
		if given {
			a.log.Warn("there is no list of revoked certificates yet; it is in force as soon as it comes", "file", path)
		}
	case err != nil:
		return nil, err
	}
	return crl, nil
}
