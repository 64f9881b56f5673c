package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// objects are the manifests as they stand there.
type objects struct {
	namespaces map[string]plain
	services   []service
	pods       []pod
	gateways   []gateway
	routes     []route
	policies   []policy
}

// Read translates the *.yaml files of a folder.
func Read(folder string) (*Mesh, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading manifests: %w", err)
	}
	o := objects{namespaces: map[string]plain{}}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading manifests: %w", err)
		}
		if err := o.parse(string(text)); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
	}
	m, err := o.translate()
	if err != nil {
		return nil, fmt.Errorf("translating the manifests of %s: %w", folder, err)
	}
	return m, nil
}

// parse adds the objects of one file.
func (o *objects) parse(text string) error {
	for i, part := range strings.Split("\n"+text, "\n---\n") {
		doc, err := yaml.YAMLToJSONStrict([]byte(part))
		if err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
		if string(doc) == "null" {
			continue // comments, or nothing at all
		}
		var m meta
		if err := json.Unmarshal(doc, &m); err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
		if err := o.add(m, doc); err != nil {
			return fmt.Errorf("document %d: %s %s/%s: %w", i+1, m.Kind, m.Metadata.Namespace, m.Metadata.Name, err)
		}
	}
	return nil
}

func (o *objects) add(m meta, doc []byte) error {
	switch m.APIVersion + " " + m.Kind {
	case "v1 Namespace":
		x, err := decode[plain](doc)
		o.namespaces[m.Metadata.Name] = x
		return err
	case "v1 ServiceAccount":
		_, err := decode[plain](doc)
		return err
	case "v1 Service":
		return appendTo(&o.services, doc)
	case "v1 Pod":
		return appendTo(&o.pods, doc)
	case "gateway.networking.k8s.io/v1 Gateway":
		return appendTo(&o.gateways, doc)
	case "gateway.networking.k8s.io/v1 HTTPRoute":
		return appendTo(&o.routes, doc)
	case "security.istio.io/v1 AuthorizationPolicy":
		return appendTo(&o.policies, doc)
	}
	return fmt.Errorf("the translation does not know %s %s", m.APIVersion, m.Kind)
}

func appendTo[T any](to *[]T, doc []byte) error {
	x, err := decode[T](doc)
	*to = append(*to, x)
	return err
}

// decode reads one object; a field that its type lacks is an error.
func decode[T any](doc []byte) (T, error) {
	var x T
	d := json.NewDecoder(bytes.NewReader(doc))
	d.DisallowUnknownFields()
	err := d.Decode(&x)
	return x, err
}
