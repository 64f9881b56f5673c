package object

import (
	"encoding/json"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	corev1 "k8s.io/api/core/v1"
)

// Pod is what is to run: a Pod, or one instance of a Deployment's template.
type Pod struct {
	Name mesh.Name
	// Deployment is the name of the Deployment that the pod belongs to; "" for none.
	Deployment string
	// Workload is the pod in the model, with its address, node and account.
	Workload   *mesh.Workload
	Containers []Container
}

// Container is one container of a Pod.
type Container struct {
	Name       string
	Image      string
	Command    []string // in place of the image's entry point
	Args       []string
	WorkingDir string
	// Env holds the variables with plain values and those that name a field of
	// the pod itself; others are left out.
	Env   []EnvVar
	Ports []ContainerPort
}

// EnvVar is a variable of a container's environment.
type EnvVar struct{ Name, Value string }

// ContainerPort is a port that a container says it listens on.
type ContainerPort struct {
	Name string
	Port uint16
	UDP  bool
}

func newPod(w *mesh.Workload, spec *corev1.PodSpec, deployment string) Pod {
	p := Pod{Name: mesh.Name{Namespace: w.Namespace, Name: w.Name}, Deployment: deployment, Workload: w}
	p.Containers = make([]Container, len(spec.Containers))
	for i := range spec.Containers {
		c := &spec.Containers[i]
		out := Container{Name: c.Name, Image: c.Image, Command: c.Command, Args: c.Args, WorkingDir: c.WorkingDir}
		for _, e := range c.Env {
			if v, ok := envValue(w, &e); ok {
				out.Env = append(out.Env, EnvVar{e.Name, v})
			}
		}
		for _, port := range c.Ports {
			out.Ports = append(out.Ports, ContainerPort{Name: port.Name, Port: uint16(port.ContainerPort), UDP: port.Protocol == corev1.ProtocolUDP})
		}
		p.Containers[i] = out
	}
	return p
}

func envValue(w *mesh.Workload, e *corev1.EnvVar) (string, bool) {
	if e.ValueFrom == nil {
		return e.Value, true
	}
	if e.ValueFrom.FieldRef == nil {
		return "", false
	}
	path := e.ValueFrom.FieldRef.FieldPath
	if key, ok := strings.CutPrefix(path, "metadata.labels['"); ok {
		return w.Labels[strings.TrimSuffix(key, "']")], true
	}
	switch path {
	case "metadata.name":
		return w.Name, true
	case "metadata.namespace":
		return w.Namespace, true
	case "spec.nodeName":
		return w.Node, true
	case "spec.serviceAccountName":
		return w.ServiceAccount, true
	case "status.podIP":
		if len(w.Addresses) > 0 {
			return w.Addresses[0].String(), true
		}
	}
	return "", false
}

// templateHash is the part of a pod's name that changes with its template.
func templateHash(tmpl *corev1.PodTemplateSpec) string {
	text, err := json.Marshal(tmpl)
	if err != nil { // no value that was decoded gives one
		text = []byte(err.Error())
	}
	return shortHash(string(text))
}
